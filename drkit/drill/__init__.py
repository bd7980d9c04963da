"""Drills: timed restores to scratch, and game days that lose things on purpose in a copy."""

from drkit.drill.drill import DrillOptions, choose, drill, unreachable
from drkit.drill.gameday import game_day
from drkit.drill.report import Drill, DrillReport, GameDayReport, Loss

__all__ = [
    "Drill",
    "DrillOptions",
    "DrillReport",
    "GameDayReport",
    "Loss",
    "choose",
    "drill",
    "game_day",
    "unreachable",
]
