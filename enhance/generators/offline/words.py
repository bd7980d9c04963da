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
    annotate answer apply archive arrange ask assemble assess assist audit authenticate authorize automate back
    backtest balance batch benchmark block boost bootstrap build cache calculate call capture catalog categorize
    change chart check choose classify clean close cluster collect combine compare compile compose compress
    compute conduct configure connect consolidate construct contain convert coordinate copy count craft create
    customize cut debug decode decrypt define delete deliver demonstrate deploy describe design detect determine
    develop diagnose diff discover display distribute document draft draw drive drop edit emit enable encode
    encrypt enforce enhance enrich ensure escalate establish estimate evaluate examine execute expand experiment
    explain explore export expose extend extract facilitate fetch fill filter find fix flag fold forecast format
    fuzz gather generate get give govern greet group guard guide handle hash help hide highlight host identify
    implement import improve index inform ingest insert inspect install instrument integrate interpret
    investigate invoke join justify keep kill label launch lead leverage link lint list load localize locate lock
    log maintain make manage map mask match measure merge migrate mine minify minimize mock model monitor mount
    move mutate navigate normalize notify offer open optimize orchestrate organize outline package paginate parse
    partition perform persist pick pin ping plan play post predict prepare preprocess present prevent preview
    print prioritize probe process produce profile project propose protect prototype provide provision prune
    publish pull push put query quote raise rank read rebase recommend record recover reduce refactor register
    reject remediate remove rename render reorder repair repeat replace replicate report research reset resize
    resolve respond restart restore retrieve retry return reuse reveal revert review revoke rewrite roll rotate
    route run sanitize save scaffold scale scan schedule score scrape search secure seed select send serve set
    share show sign simulate size sketch skip slice snapshot solve sort split spot stage standardize start stop
    store stream streamline strip structure style submit subscribe suggest summarize supply support surface swap
    sweep switch sync synchronize tag take target teach tell test throttle tidy toggle trace track train transfer
    transform translate traverse triage trigger trim troubleshoot try tune turn uncover understand undo unify
    unlock update upgrade upload use validate verify version view visualize walk warn watch wire wrap write zip
    """
)
"""Verbs that orders to a program begin with."""
NOUNS_TOO = _words(
    """
    access answer archive audit back balance batch benchmark block build cache call change chart check cluster
    copy count cut design display document draft edit experiment format group guard guide hash host index label
    launch link list load lock log map mask match mine model move open outline package pin ping plan play post
    print process profile project push query quote rank record register repeat report research reset return
    review roll route scale schedule score search share sign sketch slice snapshot spot stage start stop store
    stream structure style support surface swap sweep switch tag target test trace track train transfer trigger
    trim view walk watch wire wrap zip
    """
)
"""Those of them that are nouns as often: what follows decides."""
