"""Lists of English words that tell a verb from a noun, and words that carry no meaning of their own."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


STOP = _words(
    """
    a an and any are as at by code comprehensive for from in into is it its of on or our plugin that the their
    this to using via with you your
    """
)
"""Words that no name is made of."""
VERBS = _words(
    """
    accelerate access achieve activate adapt add adjust advise aggregate alert align allocate analyse analyze
    annotate apply archive arrange assemble assess assist audit authenticate authorize automate back backtest
    balance batch benchmark boost bootstrap build cache calculate capture catalog categorize chart check choose
    classify clean cluster collect combine compare compile compose compress compute conduct configure connect
    consolidate construct contain convert coordinate craft create customize debug decode define deliver
    demonstrate deploy describe design detect determine develop diagnose diff discover display distribute
    document draft draw drive enable enforce enhance enrich ensure establish estimate evaluate examine execute
    experiment explain explore export expose extend extract facilitate fetch filter find fix flag fold forecast
    format fuzz gather generate give govern greet group guide handle help highlight identify implement import
    improve index inform ingest inspect install instrument integrate interpret investigate justify keep label
    launch leverage lint list load localize locate log maintain make manage map mask measure merge migrate
    minimize mock model monitor navigate normalize notify offer optimize orchestrate organize package parse
    partition perform plan predict prepare preprocess present prevent preview prioritize probe process produce
    profile project protect prototype provide provision publish pull query rank read recommend record recover
    reduce refactor remediate remove render repair replace replicate report research resolve respond restore
    retrieve review rewrite rotate route run sanitize save scaffold scale scan schedule score scrape search
    secure seed select send serve set share show simulate size sort split stage standardize store stream
    streamline structure suggest summarize supply support surface sync synchronize target teach test throttle
    trace track train transfer transform translate triage trigger troubleshoot tune turn understand unify update
    upgrade use validate verify version view visualize watch write
    """
)
"""Verbs that orders to a program begin with."""
NOUNS_TOO = _words(
    """
    access archive audit back balance batch benchmark cache chart design display document draft experiment format
    group guide index label launch list load log map mask model package plan process profile project query rank
    record release report research review route scale schedule score search share stage store stream structure
    support surface target test trace track train transfer trigger view watch
    """
)
"""Those of them that are nouns as often: what follows decides."""
