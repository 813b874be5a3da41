"""Behaviours to find circuits for: prompts with counterparts, the answers that tell them apart, and metrics."""

from subcircuit.tasks.builtin.induction import induction
from subcircuit.tasks.builtin.sva import sva
from subcircuit.tasks.jsonl import jsonl
from subcircuit.tasks.metrics import METRICS, Bound, Metric, metric
from subcircuit.tasks.own_metrics import OwnMetric, metric_of, own_metric
from subcircuit.tasks.performance import Competence, competence, shortfall
from subcircuit.tasks.positions import graph_of, positions_of, with_positions
from subcircuit.tasks.prompts import build_task, build_task_of_ids
from subcircuit.tasks.registry import BuiltInTask, check_task, is_prompt_file, load_at_most, load_task, tasks
from subcircuit.tasks.roles import Roles
from subcircuit.tasks.shares import parse_shares
from subcircuit.tasks.split import (
    Split,
    load_held_out,
    load_split,
    load_two,
    shared_prompts,
    split_again,
    split_record,
    without,
)
from subcircuit.tasks.task import Answer, Answers, PromptPair, Task, check_same_vocabulary, check_vocabulary
from subcircuit.tasks.tokenizer import BosPolicy, bos_policy

__all__ = [
    "METRICS",
    "Answer",
    "Answers",
    "BosPolicy",
    "Bound",
    "BuiltInTask",
    "Competence",
    "Metric",
    "OwnMetric",
    "PromptPair",
    "Roles",
    "Split",
    "Task",
    "bos_policy",
    "build_task",
    "build_task_of_ids",
    "check_same_vocabulary",
    "check_task",
    "check_vocabulary",
    "competence",
    "graph_of",
    "induction",
    "is_prompt_file",
    "jsonl",
    "load_at_most",
    "load_held_out",
    "load_split",
    "load_task",
    "load_two",
    "metric",
    "metric_of",
    "own_metric",
    "parse_shares",
    "positions_of",
    "shared_prompts",
    "shortfall",
    "split_again",
    "split_record",
    "sva",
    "tasks",
    "with_positions",
    "without",
]
