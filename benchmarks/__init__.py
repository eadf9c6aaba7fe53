"""The harness: runs every pruner under one protocol and reports what it measured."""
