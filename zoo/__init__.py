"""Structured channel pruning of convolutional networks: methods, baselines, and what they share.

result = zoo.prune(model, train_loader, val_loader, method="knapsack", macs=0.5)
zoo.save_pruned(result, "pruned")
model = zoo.load_pruned("pruned")
"""

from zoo.core.channels.channel_group import ChannelGroup
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.contract.checks import check_pruner
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.cost.latency_table import LatencyTable
from zoo.core.cost.measure_latency import DamagedTable, Timing, measure_latency
from zoo.core.errors import Diverged, InfeasibleBudget, UnsupportedModel
from zoo.core.method.discovery import create_pruner, list_pruners
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.networks import cifar_resnet as _cifar_resnet  # noqa: F401  (registers networks with timm)
from zoo.core.networks.export import Exported, export_network
from zoo.core.networks.export_int8 import Agreement, ExportedInt8, export_int8
from zoo.core.networks.export_timm import export_timm
from zoo.core.networks.fold_batch_norm import fold_batch_norm
from zoo.core.networks.rebuild import rebuild
from zoo.core.networks.save import load_pruned, save_pruned
from zoo.core.networks.widen import widen
from zoo.core.prune import LatencyCheck, PruneResult, prune
from zoo.core.search.channel_scores import (
    channel_rows,
    channel_scores,
    magnitude_scores,
    weight_gradient_products,
)
from zoo.core.search.widths_in_budget import global_widths, keep_best, uniform_widths
from zoo.core.supernet.supernet import Supernet, recalibrate
from zoo.core.training.checkpoint import Checkpoints
from zoo.core.training.events import EpochEvent, StepEvent
from zoo.core.training.task import Metric
from zoo.core.training.train import Recipe

__all__ = [
    "Agreement",
    "Budget",
    "ChannelGroup",
    "ChannelSpace",
    "Checkpoints",
    "CostModel",
    "DamagedTable",
    "Diverged",
    "EpochEvent",
    "Exported",
    "ExportedInt8",
    "InfeasibleBudget",
    "LatencyCheck",
    "LatencyTable",
    "Metric",
    "Problem",
    "PruneResult",
    "Pruner",
    "Recipe",
    "StepEvent",
    "Subnet",
    "SubnetConfig",
    "Supernet",
    "Timing",
    "UnsupportedModel",
    "WidthRules",
    "channel_rows",
    "channel_scores",
    "check_pruner",
    "conclude",
    "create_pruner",
    "export_int8",
    "export_network",
    "export_timm",
    "fold_batch_norm",
    "global_widths",
    "keep_best",
    "list_pruners",
    "load_pruned",
    "magnitude_scores",
    "measure_latency",
    "prune",
    "rebuild",
    "recalibrate",
    "save_pruned",
    "uniform_widths",
    "unpruned",
    "weight_gradient_products",
    "widen",
]
