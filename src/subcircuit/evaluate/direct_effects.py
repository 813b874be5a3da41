"""Direct logit attribution: the contribution of each writer to the answer's logit, without later nodes.

    direct(w) = value(w) · J(x) (mean W_U[correct] − mean W_U[wrong])        summed over the rows of an answer

x is the last residual stream and J(x) the final norm's gain and scale there, held constant, so that the contributions of
all writers and biases add up to the logit difference exactly, before any soft cap (nostalgebraist 2020; Elhage et al.
2021, "direct path"). For prompts without wrong answers it is the mean logit of the right ones.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.plain_run import writer_values
from subcircuit.entry import entry
from subcircuit.graph import Graph
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.tasks import Answers, Task, check_vocabulary
from subcircuit.units.gradients import norm_pull_back


@entry
@torch.no_grad()
def direct_effects(model: Transformer, graph: Graph, task: Task, *, corrupted: bool = False) -> Float[Tensor, "writer batch"]:
    """The contribution of each writer to the logit difference of each example, mean over its answers, in float64.

    Examples run one at a time, so memory is that of one prompt's writers.

    Args:
        corrupted: use the run of the corrupted prompts, still with the answers of the clean prompts.
    """
    check_vocabulary(model, task)
    parts = [task[example : example + 1].to(model.device) for example in range(len(task))]
    prompts = [part.corrupted if corrupted else part.clean for part in parts]
    columns = [_direct(model, graph, tokens, part.answers) for tokens, part in zip(prompts, parts, strict=True)]
    return torch.cat(columns, 1)


def _direct(model: Transformer, graph: Graph, tokens: Tokens, answers: Answers) -> Float[Tensor, "writer batch"]:
    last = answers.rows(model.stream(tokens))
    at_rows = norm_pull_back(model.config.norm, model.weights.final_norm, last, _directions(model, answers), frozen=True)
    values = answers.rows(writer_values(model, graph, tokens))
    return answers.per_example(torch.linalg.vecdot(values.double(), at_rows.double())).cpu()


def _directions(model: Transformer, answers: Answers) -> Float[Tensor, "answer d_model"]:
    """The unembedding's mean row of right tokens, minus that of wrong ones if there are any."""
    W_U = model.weights.W_U
    directions = []
    for correct, right, wrong, false in zip(
        answers.correct, answers.correct_mask, answers.wrong, answers.wrong_mask, strict=True
    ):
        direction = W_U[correct[right]].mean(0)
        directions.append(direction - W_U[wrong[false]].mean(0) if bool(false.any()) else direction)
    return torch.stack(directions)
