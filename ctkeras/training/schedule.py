"""The learning rate over time, as plain numbers that the compiled step takes."""

import dataclasses
import math

from ctkeras.config import RunConfig

STEP_FACTOR = 0.1  # after each third of the epochs, as ImageNet's 30/60/90 of 90 (He et al. 2015)
PLATEAU_FACTOR = 0.1  # torch.optim.lr_scheduler.ReduceLROnPlateau's default
PLATEAU_PATIENCE = 5  # epochs; half of that class's 10, because runs here are 30 epochs long


@dataclasses.dataclass(frozen=True)
class Plateau:
    """What the plateau schedule remembers between epochs."""

    factor: float = 1.0
    best_loss: float = math.inf
    waited: int = 0

    def after(self, val_loss: float) -> "Plateau":
        """The memory after an epoch with this validation loss."""
        if val_loss < self.best_loss:
            return dataclasses.replace(self, best_loss=val_loss, waited=0)
        if self.waited + 1 < PLATEAU_PATIENCE:
            return dataclasses.replace(self, waited=self.waited + 1)
        return dataclasses.replace(self, factor=self.factor * PLATEAU_FACTOR, waited=0)


def learning_rate(config: RunConfig, step: int, *, steps_per_epoch: int, plateau: Plateau) -> float:
    """The learning rate of one step.

    Args:
        config: lr, scheduler, warmup_epochs, max_epochs. Cosine falls to 0 (Loshchilov & Hutter 2017).
        step: from 0, over the whole run.
        steps_per_epoch: steps.
        plateau: the memory at this epoch; only that schedule uses it.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.scheduler == "plateau":
        return config.lr * plateau.factor
    if config.scheduler == "step":
        third = step * 3 // (config.max_epochs * steps_per_epoch)
        return config.lr * STEP_FACTOR**third
    done = (step - warmup) / max(1.0, config.max_epochs * steps_per_epoch - warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * done))
