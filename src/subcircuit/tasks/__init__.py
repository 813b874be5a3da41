"""Behaviours to find circuits for: prompts with counterparts, the answers that tell them apart, and metrics."""

from subcircuit.tasks.answers import Answer, Answers
from subcircuit.tasks.build import build_task, build_task_of_ids
from subcircuit.tasks.capital_of import capital_of
from subcircuit.tasks.competence import Competence, competence, shortfall
from subcircuit.tasks.docstring import docstring
from subcircuit.tasks.encoding import BosPolicy
from subcircuit.tasks.gendered_pronoun import gendered_pronoun
from subcircuit.tasks.greater_than import greater_than
from subcircuit.tasks.induction import induction
from subcircuit.tasks.ioi import ioi
from subcircuit.tasks.jsonl import jsonl
from subcircuit.tasks.load import BuiltInTask, check_task, is_prompt_file, load_at_most, load_held_out, load_task, load_two, tasks
from subcircuit.tasks.metrics import METRICS, Bound, Metric, metric
from subcircuit.tasks.overlap import shared_prompts, without
from subcircuit.tasks.own_metric import OwnMetric, metric_of, own_metric
from subcircuit.tasks.places import graph_of, placed, places_of
from subcircuit.tasks.roles import Roles
from subcircuit.tasks.split import Split, load_split, parse_shares, split_again, split_record
from subcircuit.tasks.sva import sva
from subcircuit.tasks.task import PromptPair, Task, check_same_vocabulary, check_vocabulary

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
    "build_task",
    "build_task_of_ids",
    "capital_of",
    "check_same_vocabulary",
    "check_task",
    "check_vocabulary",
    "competence",
    "docstring",
    "gendered_pronoun",
    "graph_of",
    "greater_than",
    "induction",
    "ioi",
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
    "placed",
    "places_of",
    "shared_prompts",
    "shortfall",
    "split_again",
    "split_record",
    "sva",
    "tasks",
    "without",
]
