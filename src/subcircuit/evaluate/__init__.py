"""Evaluation of circuits: faithfulness, completeness, minimality, controls and confidence intervals."""

from subcircuit.evaluate.agreement import Agreement, Stability, agreements, check_comparable, models_that_differ, stability
from subcircuit.evaluate.bootstrap import Interval, bootstrap
from subcircuit.evaluate.completeness import Knockout, complement, completeness, edges_from, knock_out, minimality, random_subsets
from subcircuit.evaluate.controls import random_circuit, random_connected_circuit, reset
from subcircuit.evaluate.curves import PERCENTAGES, Curve, CurvePoint, curve
from subcircuit.evaluate.direct_effects import direct_effects
from subcircuit.evaluate.evaluation import Judgement, discover, discover_split, judge, measured_on, numbers_of, with_numbers
from subcircuit.evaluate.faithfulness import Evaluation, evaluate_circuit, faithfulness, faithfulness_interval
from subcircuit.evaluate.hypothesis_tests import (
    Equivalence,
    Independence,
    Minimality,
    equivalence_test,
    independence_test,
    minimality_test,
)
from subcircuit.evaluate.measure import Readings, measure, measure_all
from subcircuit.evaluate.recovery import Overlap, Recovery, Roc, overlap, recovery, recovery_of_circuits, roc_of_circuits
from subcircuit.evaluate.resampling import StabilitySelection, stability_selection
from subcircuit.evaluate.routing import Frequencies, LayerRouting, RoutingEffects, RoutingReport, routing
from subcircuit.evaluate.sweep import THRESHOLDS, Contender, Contest, contend
from subcircuit.evaluate.validation import (
    SLOW,
    Attempt,
    Conditions,
    Refusal,
    Validation,
    needed,
    validate,
    validate_all,
    validations,
)

__all__ = [
    "PERCENTAGES",
    "SLOW",
    "THRESHOLDS",
    "Agreement",
    "Attempt",
    "Conditions",
    "Contender",
    "Contest",
    "Curve",
    "CurvePoint",
    "Equivalence",
    "Evaluation",
    "Frequencies",
    "Independence",
    "Interval",
    "Judgement",
    "Knockout",
    "LayerRouting",
    "Minimality",
    "Overlap",
    "Readings",
    "Recovery",
    "Refusal",
    "Roc",
    "RoutingEffects",
    "RoutingReport",
    "Stability",
    "StabilitySelection",
    "Validation",
    "agreements",
    "bootstrap",
    "check_comparable",
    "complement",
    "completeness",
    "contend",
    "curve",
    "direct_effects",
    "discover",
    "discover_split",
    "edges_from",
    "equivalence_test",
    "evaluate_circuit",
    "faithfulness",
    "faithfulness_interval",
    "independence_test",
    "judge",
    "knock_out",
    "measure",
    "measure_all",
    "measured_on",
    "minimality",
    "minimality_test",
    "models_that_differ",
    "needed",
    "numbers_of",
    "overlap",
    "random_circuit",
    "random_connected_circuit",
    "random_subsets",
    "recovery",
    "recovery_of_circuits",
    "reset",
    "roc_of_circuits",
    "routing",
    "stability",
    "stability_selection",
    "validate",
    "validate_all",
    "validations",
    "with_numbers",
]
