"""Gradients on their way between processes, in the format that a recipe gives them."""

# Without postponed annotations: torch looks at those of a hook.
import torch
from torch import distributed

from fewbits.training.cast import Cast
from fewbits.training.table import Place, Recipe

_CLOCK = torch.zeros((), dtype=torch.int64)


def rounded_all_reduce(
    recipe: Recipe,
    bucket: distributed.GradBucket,  # type: ignore[name-defined]  # made where distributed was built in
) -> torch.futures.Future[torch.Tensor]:
    """A hook for `DistributedDataParallel.register_comm_hook`: gradients are rounded before and after they are summed.

    The format is emulated: what travels has the type of the gradients.
    """
    cast = Cast(recipe.cell(Place.COMMUNICATION), f"bucket {bucket.index()}", 0, _CLOCK)
    own = bucket.buffer()
    own.copy_(cast(own.float() / distributed.get_world_size()))
    work = distributed.all_reduce(own, async_op=True)
    assert work is not None

    def rounded(done: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        summed = done.value()[0]
        return summed.copy_(cast(summed.float()))

    future: torch.futures.Future[torch.Tensor] = work.get_future().then(rounded)
    return future
