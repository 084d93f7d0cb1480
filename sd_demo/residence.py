"""Where the networks of a model are while they are not needed: the memory ladder, and the way down it.

On a device with room all networks stay. With less, the text encoder leaves after it has read the prompt; then each
network comes for its turn alone; then layers come one at a time, which is slow and runs nearly anywhere. A network that
runs out of memory on one rung is run again on the next, and the receipt says where that ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, get_args

import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module

from sd_demo.memory_errors import Answer, tried
from sd_demo.settings import Rung

log = logging.getLogger(__name__)

RUNGS: Final[tuple[Rung, ...]] = get_args(Rung)
HOME: Final = torch.device("cpu")


class Residence:
    """Of one model's networks ("unet", "vae", "text_encoder" and whatever else is given), on `device`.

    They are brought there at once, on `rung` or the first one below on which they fit; where there is none, what the
    device said is raised. Not for several threads at once: the engine's worker alone runs them.
    """

    def __init__(
        self,
        networks: Mapping[str, torch.nn.Module],
        device: torch.device,
        rung: Rung = "resident",
        spare: Callable[[], bool] = lambda: False,
    ) -> None:
        self._networks, self._device = dict(networks), device
        self._rung: Rung = rung
        self._has_hooks = False
        self._guest: str | None = None
        self.spare = spare
        """Lets go of what is held on the device only to be faster; False where there was nothing."""
        self._can_step_down = device.type != HOME.type  # else nothing would be saved
        while isinstance(failure := tried(self.settle), RuntimeError):
            if not self.spared():
                if self.step_down():
                    return
                raise failure
            self.release()

    @property
    def rung(self) -> Rung:
        """Where on the ladder it stands."""
        return self._rung

    @property
    def is_crowded(self) -> bool:
        """Bringing a network costs time, so that nothing is run that is not needed."""
        return self._rung in ("one_at_a_time", "layer_by_layer")

    def run(self, name: str, call: Callable[[], Answer]) -> Answer:
        """The answer of `call`, which runs the network `name`, brought to the device first.

        Where the device's memory is too small, the next rung is tried. Raises the error where there is none.
        """
        while True:
            answer = tried(lambda: self._there(name, call))
            if not isinstance(answer, RuntimeError):
                return answer
            if not self.spared() and not self.step_down():
                raise answer

    def attempt(self, name: str, call: Callable[[], Answer]) -> Answer:
        """As `run`, but once: where the memory is too small, that is raised and everything stays as it is."""
        answer = tried(lambda: self._there(name, call))
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    def step_down(self) -> bool:
        """Take the next rung; False where this is the last, or the device has no memory of its own."""
        for rung in RUNGS[RUNGS.index(self._rung) + 1 :] if self._can_step_down else ():
            self.spared()  # recordings of a network that moves are of no use
            self.release()
            self._rung = rung
            log.warning("memory is short; from here on the networks are %s", rung.replace("_", " "))
            if not isinstance(tried(self.settle), RuntimeError):
                return True
        return False

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The networks as ordinary modules that may be changed, for the length of a with block."""
        if self._rung == "layer_by_layer":
            self.release()
        try:
            yield
        finally:
            if self._rung == "layer_by_layer":
                self.settle()

    def settle(self) -> None:
        """Put every network where this rung has it at rest."""
        for name, network in self._networks.items():
            if self._rung == "layer_by_layer":
                cpu_offload(network, self._device, offload_buffers=len(network._parameters) > 0)
                self._has_hooks = True
            else:
                network.to(self._device if self.stays(name) else HOME)
        self._guest = None
        empty_cache()

    def release(self) -> None:
        """Bring all networks home; `settle` follows."""
        for network in self._networks.values():
            if self._has_hooks:
                remove_hook_from_module(network, recurse=True)
            network.to(HOME)
        self._has_hooks = False
        empty_cache()

    def stays(self, name: str) -> bool:
        """Whether the network `name` is on the device at rest, whole."""
        return self._rung == "resident" or (self._rung == "text_encoder_away" and name != "text_encoder")

    def _there(self, name: str, call: Callable[[], Answer]) -> Answer:
        self._bring(name)
        return call()

    def _bring(self, name: str) -> None:
        if self._rung in ("resident", "layer_by_layer"):
            return
        if self._guest not in (None, name):  # of those that do not stay, one is there at a time
            self._networks[self._guest].to(HOME)
            self._guest = None
        if not self.stays(name):
            self._networks[name].to(self._device)
            self._guest = name

    def spared(self) -> bool:
        """Give back memory that is held only to be faster; False where there was none."""
        has_spared = self.spare()
        if has_spared:
            empty_cache()
        return has_spared


def empty_cache() -> None:
    """Let PyTorch return what it keeps of a GPU's freed memory, for tensors that fit into none of its pieces."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def every_network(components: Mapping[str, Any]) -> dict[str, torch.nn.Module]:
    """Those of a pipeline's components that hold weights."""
    return {name: part for name, part in components.items() if isinstance(part, torch.nn.Module)}
