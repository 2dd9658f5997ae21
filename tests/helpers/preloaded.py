"""What processes of the tests would import one by one; the collector need not look at it again."""

# ruff: noqa: F401

import gc

import deepspeed.runtime.zero.muon.original_muon
import torch.utils.cpp_extension
import transformers.utils.hub

import bigbatch_ue.benchmark.session
import bigbatch_ue.cli.commands
import bigbatch_ue.evaluation.evaluate
import bigbatch_ue.protection.protect
import bigbatch_ue.sweeps.jobs
import bigbatch_ue.training.train

gc.freeze()
