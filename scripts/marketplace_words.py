"""The vocabulary of the made-up plugins: plain lists of words, one space between them."""

from __future__ import annotations

TOPICS: dict[str, str] = {
    "accessibility": "contrast focus landmark caption keyboard reader label heading zoom motion outline",
    "analytics": "funnel cohort metric dashboard event segment retention sample session report forecast",
    "automation": "workflow trigger schedule webhook runner queue retry batch template approval timer",
    "cloud": "bucket region cluster subnet gateway instance volume quota identity policy balancer registry",
    "community": "issue discussion contributor moderator newsletter badge survey roadmap meetup",
    "crypto": "wallet ledger token signature hash block oracle bridge validator nonce fee multisig",
    "data": "pipeline schema partition column record warehouse lineage feed extract join catalog snapshot",
    "database": "query index migration replica transaction cursor deadlock vacuum table trigger backup",
    "design": "palette grid icon layout typeface spacing component prototype mockup token gradient canvas",
    "devops": "deployment rollout pipeline artifact container release environment canary drift secret",
    "documentation": "chapter glossary changelog diagram tutorial reference page anchor outline example",
    "finance": "invoice budget ledger payment forecast reconciliation tax expense balance currency",
    "learning": "model dataset feature label tensor gradient epoch embedding checkpoint evaluation prompt",
    "mobile": "screen gesture bundle permission notification emulator keychain widget deeplink locale",
    "monitoring": "alert trace span metric log incident threshold heartbeat uptime latency runbook pager",
    "security": "token vulnerability secret certificate audit permission payload sandbox threat policy",
    "testing": "fixture assertion coverage mock suite snapshot fuzzer regression harness mutation contract",
    "writing": "draft headline paragraph tone outline editor summary quote citation style voice review",
}

ROLES = (
    "advisor analyzer archiver assistant auditor builder checker cleaner collector designer explainer"
    " exporter finder generator guardian importer inspector manager monitor optimizer planner profiler"
    " reporter reviewer tracker"
)

NOUNS = (
    "account action agent alias answer argument array asset attempt author backlog baseline boundary"
    " branch budget buffer build cache call case category chain change channel check choice client clock"
    " code collection command comment commit condition config conflict connection constraint consumer"
    " content context contract copy cost counter credential cycle deadline decision default defect delay"
    " dependency detail device difference directory document domain draft edge effort element endpoint"
    " engine entry error estimate exception exit expression failure fallback field file filter finding"
    " flag flow folder format frame function goal graph group guideline handler header history hook host"
    " identifier image impact input insight interface interval item job key language layer level library"
    " limit line link list loader loop machine maintainer mapping margin marker match measure member"
    " memory message method milestone mode module name network node note number object operation option"
    " order origin output overview owner package parameter parser part pass path pattern payload phase"
    " plan platform plugin point port position prefix problem process producer profile project property"
    " proposal protocol provider purpose question range rate reason recommendation record region release"
    " remark repository request requirement resource response result revision risk role root route row"
    " rule scale scenario scope score script section selection sequence server service setting shape"
    " signal size source stage standard state step storage strategy stream string structure subject"
    " suggestion summary support switch symbol system tag target task team term text thread time tool"
    " trade-off type unit update usage user value variable vendor version view warning window worker"
)

VERBS = (
    "accept add adjust align allow analyze append apply approve archive arrange ask assign attach avoid"
    " balance batch bind break bring build call cancel capture carry catch change check choose clean clear"
    " close collect combine compare complete compute confirm connect consider contain convert copy count"
    " cover create deliver depend derive describe detect determine discard divide draw drop emit enable"
    " encode end ensure enter estimate evaluate examine exclude execute expand expect explain export"
    " expose extend extract fail fetch fill filter find fix flag follow force format gather generate group"
    " guard guess handle hide highlight hold identify ignore import improve include increase inform"
    " inspect install introduce invoke isolate join keep label launch learn leave limit link list load"
    " locate lock log maintain map mark match measure merge migrate monitor move name normalize note"
    " notify obtain offer open order organize pause perform pick plan point prefer prepare present"
    " preserve prevent print process produce propose protect provide publish query raise rank read rebuild"
    " receive record recover reduce refer refine reject release reload remove rename render repeat replace"
    " report request require reset resolve restart retry return reuse review rewrite roll run sample save"
    " scan schedule score search select send separate set share show skip sort split stage start stop"
    " store structure submit suggest summarize support switch tag take test track transform translate trim"
    " try tune update upload use validate verify visit wait warn watch wrap write"
)

ADJECTIVES = (
    "absent accurate active actual additional affected ambiguous appropriate automatic available basic"
    " blocking brief broad broken careful cheap clear common compatible complete complex concise concrete"
    " consistent correct costly critical current custom daily deep deprecated detailed deterministic"
    " different direct distinct dry duplicate early empty entire equal essential exact existing expected"
    " experimental explicit external fast final fixed flexible fragile frequent full future general global"
    " gradual heavy hidden high idle important incomplete incremental independent initial internal invalid"
    " isolated large late lazy likely local long loose low main manual many mature minimal minor missing"
    " mixed modern narrow native nested new noisy nullable numeric obsolete optional ordinary original"
    " outdated overdue parallel partial pending persistent plain possible practical precise preferred"
    " previous primary private public quick quiet random rare raw readable real recent redundant relative"
    " relevant reliable remote repeated required robust rough safe secondary separate serious shallow"
    " short silent similar simple single slow small specific stable stale static strict strong suitable"
    " temporary thorough tight typical unexpected unique unknown unused urgent useful usual valid verbose"
    " visible weak whole wide wrong"
)

GLUE = "and and and or but so because when while before after until unless where whenever if once although since than"

SMALL = "the the the the a a each every this that its their any one another no both most some our"

JOINS = "of in for with from to on by at into over under between without within per across through about"

LICENSE = """MIT License

Copyright (c) {holder}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
the Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions
of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED
TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
DEALINGS IN THE SOFTWARE.
"""
