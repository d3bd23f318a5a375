"""One tensor for all particles, which can be divided into one for each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.diffusion.tensors import to_device


class ParticleTensor(nn.Module):
    """A tensor ``[N, ...]`` with a row per particle, as one parameter.

    So thousands of particles cost no more than one. An optimizer that keeps a state would also
    change particles that a step does not draw: ``separate`` gives each its own parameter.

    Args:
        initial: initial values of N particles.
    """

    def __init__(self, initial: Float[Tensor, "n ..."]):
        super().__init__()
        self._count = len(initial)
        self.all: nn.Parameter | None = nn.Parameter(initial.detach().clone())
        self.register_load_state_dict_pre_hook(_match_layout)

    def separate(self) -> None:
        """Divide the tensor into one parameter per particle."""
        if self.all is not None:
            rows = self.all.detach().unbind(0)
            self.all = None
            for i, row in enumerate(rows):
                self.register_parameter(str(i), nn.Parameter(row.clone()))

    def gather(self, particle: Int[Tensor, "b"]) -> Float[Tensor, "b ..."]:
        """Return the rows of particles, as a copy.

        Args:
            particle: particle of each row.
        """
        if self.all is None:
            return torch.stack([self[i] for i in particle.tolist()])
        return self.all.index_select(0, to_device(particle, self.all.device))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> Float[Tensor, "..."]:
        return self.get_parameter(str(i)) if self.all is None else self.all[i]

    def __iter__(self) -> Iterator[Float[Tensor, "..."]]:
        return (self[i] for i in range(len(self)))


def _match_layout(
    module: ParticleTensor, state: dict[str, Tensor], prefix: str, *arguments: object
) -> None:
    """Bring a saved tensor into the layout of the module: a run may start from one of the other."""
    whole, rows = f"{prefix}all", [f"{prefix}{i}" for i in range(len(module))]
    if module.all is not None and all(name in state for name in rows):
        state[whole] = torch.stack([state.pop(name) for name in rows])
    elif module.all is None and len(state.get(whole, ())) == len(module):
        state.update(zip(rows, state.pop(whole).unbind(0), strict=True))
