"""Many processes that train together, on one machine or several, and notice when one of them is lost."""

from datetime import timedelta

import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from reprogram import preemption
from reprogram.errors import ConfigError, ProcessLost, ReprogramError
from reprogram.preemption import Preempted
from reprogram.training.children import Children
from reprogram.training.pulse import Pulse, named

ENDING = 10.0  # seconds that processes of this machine have to end when all were asked to


class ManyProcesses(DDPStrategy):
    """Lightning's strategy; each process keeps its own statistics of the label mapping.

    Args:
        timeout: Seconds that the others wait for a process before it is given up, and all end; > 0.

    Raises:
        ConfigError: If ``timeout`` is not positive.
    """

    def __init__(self, timeout: float = 600.0) -> None:
        if not timeout > 0:
            raise ConfigError(f"trainer.strategy.timeout: expected seconds > 0, got {timeout}")
        # PyTorch's own patience ends after ours: it cannot say who is missing
        super().__init__(broadcast_buffers=False, timeout=timedelta(seconds=timeout + 60))
        self.seconds = timeout
        self._pulse: Pulse | None = None

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher: Children = Children(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_environment(self) -> None:
        """Meets the others."""
        try:
            super().setup_environment()
        except dist.DistError as error:
            raise ProcessLost(f"{self.world_size} processes did not meet: {str(error).splitlines()[0]}") from error
        if self.world_size > 1:
            self._pulse = Pulse(self.seconds, last=lambda: self._launcher.end(0))

    def on_exception(self, exception: BaseException) -> None:
        """What has failed here may be the end of another process.

        Raises:
            Preempted: If another one was asked to end.
            ProcessLost: If another one died.
        """
        super().on_exception(exception)
        if isinstance(exception, Preempted):
            return self._launcher.end(ENDING)
        if isinstance(exception, RuntimeError) and not isinstance(exception, ReprogramError) and self._pulse:
            lost = self._pulse.dead()
            if preemption.received() or self._launcher.ended_by_request():
                self._launcher.end(ENDING)
                raise Preempted from exception
            if lost:
                raise ProcessLost(f"{named(lost)} of this run died; the same command continues") from exception
        self._launcher.end(0)

    def teardown(self) -> None:
        """Parts from the others."""
        if self._pulse is not None:
            self._pulse.stop()
        super().teardown()
