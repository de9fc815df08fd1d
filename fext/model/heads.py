"""The heads of a run: what it predicts from the latent besides the picture. They end with training."""

from torch import nn

from fext.model.plans import Plan
from fext.model.pretext import RotationHead, build_rotation_head
from fext.model.views import ViewsHead, build_views_head, weight_of_views
from fext.settings import Settings


class Heads(nn.Module):
    """Those that there are, to be trained with the model; None where the settings leave one out."""

    def __init__(self, rotation: RotationHead | None = None, views: ViewsHead | None = None) -> None:
        super().__init__()
        self.rotation = rotation
        self.views = views


def build_heads(plan: Plan, settings: Settings) -> Heads:
    """The heads that the settings ask for, with weights drawn from their seed."""
    rotation = build_rotation_head(plan, settings.seed) if settings.rotation_weight else None
    return Heads(rotation, build_views_head(plan, settings.seed) if weight_of_views(settings) else None)
