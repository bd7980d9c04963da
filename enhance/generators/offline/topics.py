"""What a section is about, told by its heading, and what that makes it worth to somebody who has to do the work."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from enhance.generators.offline.markdown import Section

Topic = Literal["when", "usage", "can", "needs", "steps", "own", "output", "examples", "trouble", "care"]

RANK: dict[Topic, int] = {
    "when": 0,
    "usage": 1,
    "can": 2,
    "needs": 2,
    "steps": 2,
    "own": 2,
    "output": 2,
    "examples": 4,
    "trouble": 5,
    "care": 6,
}
"""In which order a reader wants them. Those of one rank stay in the order in which their author put them."""
WORTH: dict[Topic, float] = {
    "when": 10,
    "steps": 9,
    "usage": 8,
    "own": 7,
    "needs": 6.5,
    "output": 6,
    "examples": 6,
    "can": 5.5,
    "trouble": 5,
    "care": 4.5,
}
"""What is kept first where there is not room for all."""

_DROPPED = re.compile(
    r"licen[cs]e|^install|^uninstall|^updating|^contribut|^support\b|^support (?:&|and)|changelog"
    r"|version history|^versions?$|^credits?$|^acknowledg|^authors?\b|roadmap"
    r"|future (?:enhancement|work|plan|feature)|coming soon|^planned|table of contents|^contents$"
    r"|get notified|expected release|^sponsor|pro tier|^related\b|further reading|^see also"
    r"|^learn more|^resources?$|^references?$|^documentation$|^community|^feedback$|^about\b|^status$"
    r"|release notes|what's new|test results?$|^thank|^conclusion|^summary$|^next steps"
    r"|^start (?:the|operations|response|audit|wizard|process)|^files?$"
    r"|(?:file|directory|plugin|project|repository) structure"
    r"|^publish(?:ing)?(?: (?:to|the|your) .*)?$|^screenshots?$|^demo$"
    r"|^(?:local )?development(?: setup)?$|^tech(?:nology)? stack$|learning objectives"
    r"|get started now|communication style|your style|^tone|personality|^tags?$|^categor|badges?"
    r"|^links?$|^(?:add )?(?:the )?marketplace|^pricing|plans? (?:&|and)? ?pricing|get help"
    r"|getting help|^contact|^faq$|alternatives$|^why (?:this|use|choose)|^success stor|testimonial"
    r"|^quick links|^metadata$|^activation priority|^integration with other (?:agents|plugins)"
    r"|collaboration with|^design decisions?$|^alternatives considered"
)
_KINDS: dict[Topic, str] = {
    "when": (
        r"^when (?:to|not|users?|you(?! need)|this)\b|don'?t use|do not use|use cases?|activation"
        r"|^triggers?(?: (?:phrases|words|keywords))?$|ideal for|^use this"
    ),
    "trouble": (
        r"troubleshoot|error|common (?:issues|problems|mistakes|pitfalls)|debug|faq|failure|recovery"
        r"|rollback|fallback"
    ),
    "examples": r"examples?\b|samples?\b|scenarios?|quer(?:y|ies) examples|interaction|real-world|walkthrough|demo",
    "output": r"output|report\b|deliverable|response format|generated|templates?\b|results?\b|artifacts?",
    "needs": (
        r"prerequisit|require|parameter|argument|option|input|configur|environment|setup|set up|dependenc"
        r"|settings|need (?:more|additional)"
    ),
    "care": (
        r"best practice|security|notes?\b|warning|limit|disclaimer|ethic|complian|considerations|safety"
        r"|mistakes|remember|principles|\btips\b|guidelines|rules|risk|quality|constraints|cautions?"
        r"|performance$|success criteria|anti-?patterns"
    ),
    "steps": (
        r"process|workflow|steps?\b|how it works|implementation|your task|when invoked|when activated"
        r"|approach|methodolog|protocol|procedure|mission|phases?\b|instructions"
        r"|what (?:this command|you|it) do(?:es)?|execution|framework|checklist|method"
    ),
    "usage": r"^usage|quick ?start|getting started|^commands?\b|invocation|^syntax|command reference|shortcuts?",
    "can": (
        r"feature|capabilit|expertise|what it|supported|analysis areas|responsibilit|purpose|overview"
        r"|skills|scope|includes|data sources|platforms|tools"
    ),
}
_KIND = tuple((topic, re.compile(pattern)) for topic, pattern in _KINDS.items())
_STOCK = frozenset(
    {
        "automated workflows",
        "best practices",
        "best practices implementation",
        "comprehensive documentation",
        "easy to use",
        "error handling",
        "fast and reliable",
        "multi platform",
        "multi platform support",
        "performance optimization",
        "production ready",
        "production ready configurations",
        "scalable architecture",
        "security first approach",
        "standard ml libraries",
        "well documented",
    }
)


class Unit(Struct, frozen=True):
    """A section that may become one of the skill's: from which text it comes, what it is about, what it is worth."""

    section: Section
    topic: Topic
    worth: float
    path: str
    owner: str = ""
    """The command or agent that it describes, where there are several."""


def topic_of(heading: str) -> Topic | None:
    """Return what a section under this heading is about, None for what no skill needs."""
    words = re.sub(r"^\d+[.)]?\s*", "", heading.lower()).strip()
    if words and words[0] == "`":
        return "own"
    if _DROPPED.search(words):
        return None
    return next((topic for topic, pattern in _KIND if pattern.search(words)), "own")


def is_stock(item: str) -> bool:
    """Whether a list's item is one of those phrases that say nothing of any plugin."""
    return " ".join(re.findall(r"[a-z]+", item.lower())) in _STOCK
