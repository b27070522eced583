"""Predictions for the jobs of a plan, from this workspace's finished jobs and, where there are none, from a probe."""

import logging
import subprocess
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from core import devices
from core.catalog import Settings
from core.phases import forecast
from core.phases.forecast import ESTIMATED, MEASURED, Expected
from core.phases.probe import speed
from core.runner.admission import Device, Need
from core.runner.intake import threads_of
from core.store.reads import Reader
from core.store.views import PastJob

LIKE = 50  # finished jobs of a kind that are looked at

log = logging.getLogger("tara.phases")


class Predictor:
    """Looks at each kind and footprint once."""

    def __init__(self, reader: Reader, settings: Settings) -> None:
        self._reader = reader
        self._settings = settings
        self._same: dict[str, list[PastJob]] = {}
        self._like: dict[str, list[PastJob]] = {}
        self._peaks: dict[str, int | None] = {}

    def expected(
        self, kind: str, params: Mapping[str, Any], need: Need, footprint: str | None, work: float
    ) -> Expected:
        """Memory and seconds of a job that is run as it is set."""
        on_device = need.device and bool(self.devices)
        peak = self.peak(footprint)
        seconds, by = forecast.expect_seconds(
            kind,
            work,
            same=self._same_as(footprint),
            like=self._like_kind(kind),
            from_gguf=bool(params.get("base", {}).get("gguf_file")),
            on_device=on_device,
            threads=threads_of(True, self._settings),
            speed=speed,
        )
        estimate = need.beside_device if on_device else need.memory
        return Expected(estimate if peak is None else peak, ESTIMATED if peak is None else MEASURED, seconds, by)

    def peak(self, footprint: str | None) -> int | None:
        """The most memory that a job of a footprint was measured to hold; None where none was."""
        if footprint is None:
            return None
        if footprint not in self._peaks:
            self._peaks[footprint] = self._reader.peak_of(footprint)
        return self._peaks[footprint]

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """The devices a job may be given; none where nvidia-smi cannot be asked, as for the runner."""
        program = devices.program()
        if program is None:
            return ()
        try:
            return tuple(Device(one.uuid, one.total, one.free) for one in devices.gpus(program))
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("nvidia-smi cannot be asked (%s): predicted as without devices", error)
            return ()

    def _same_as(self, footprint: str | None) -> list[PastJob]:
        if footprint is None:
            return []
        if footprint not in self._same:
            self._same[footprint] = self._reader.past_jobs(footprint=footprint, limit=LIKE)
        return self._same[footprint]

    def _like_kind(self, kind: str) -> list[PastJob]:
        if kind not in self._like:
            self._like[kind] = self._reader.past_jobs(kind=kind, limit=LIKE)
        return self._like[kind]
