"""One training step of a narrow strided layer with torch alone; run in a process of its own."""

import sys

import torch
from torch import nn

layer = nn.Conv2d(4, 8, 1, stride=2).to(memory_format=torch.channels_last)
layer(torch.randn(8, 4, 16, 16).to(memory_format=torch.channels_last)).sum().backward()
sys.stdout.write("done\n")
