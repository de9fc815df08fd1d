"""A task beside reconstruction, whose answers are known without labels: by how much was an image turned?

To tell it, an encoder has to know what things look like upright, which reconstruction alone does not ask for. See
Gidaris et al., 'Unsupervised representation learning by predicting image rotations', 2018, and Zhang et al.,
'AET vs. AED: autoencoding transformations rather than data', 2019.
"""

import torch
from torch import nn
from torch.nn import functional

from fext.model.plans import Plan


class RotationHead(nn.Module):
    """Tells from the latent how images were turned: (N, C, rows, columns) to (N, turns), before the softmax."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        channels = plan.latent_shape[2]
        self.norm = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_turns(plan.picture_shape))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        turns: torch.Tensor = self.linear(functional.relu(self.norm(latent)).mean(dim=(2, 3)))
        return turns


def build_rotation_head(plan: Plan, seed: int) -> RotationHead:
    """A head with weights drawn from `seed`, leaving torch's global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return RotationHead(plan)


def num_turns(picture_shape: tuple[int, int, int]) -> int:
    """Square pictures can be turned by 0, 90, 180 and 270 degrees, others by 0 and 180."""
    return 4 if picture_shape[0] == picture_shape[1] else 2


def turned(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each of the images (N, C, H, W) turned by a random share of a full turn, and the number of that share (N,)."""
    count = num_turns((images.shape[2], images.shape[3], images.shape[1]))
    turns = torch.randint(count, (len(images),), device=images.device)
    result = images.clone()
    for turn in range(1, count):
        chosen = turns == turn
        result[chosen] = torch.rot90(images[chosen], turn * 4 // count, dims=(2, 3))
    return result, turns
