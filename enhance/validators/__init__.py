"""The rules for skills, plugins and marketplaces, and the functions that hold files against them.

`check_source` is for what is on the disk, `check_plugin` for one plugin with staged files in it. Both return
findings in a fixed order and never raise for what a file holds. docs/rules.md lists the rules.
"""

from enhance.validators.check import check_plugin, check_source, meets
from enhance.validators.rules import PROFILES, RULES, STANDARDS_SHA256, Rule
from enhance.validators.text import dangers, hidden_characters
from enhance.validators.view import Contents

__all__ = [
    "PROFILES",
    "RULES",
    "STANDARDS_SHA256",
    "Contents",
    "Rule",
    "check_plugin",
    "check_source",
    "dangers",
    "hidden_characters",
    "meets",
]
