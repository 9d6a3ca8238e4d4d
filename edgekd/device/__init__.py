"""Devices that run a bundle: this machine, a board that ssh reaches, or a fleet of boards."""

from edgekd.device.board import Board, board_of
from edgekd.device.fleet import Outcome, run_fleet, runner_of
from edgekd.device.local import RUNTIMES, run_bundle
from edgekd.device.remote import run_on

__all__ = ["RUNTIMES", "Board", "Outcome", "board_of", "run_bundle", "run_fleet", "run_on", "runner_of"]
