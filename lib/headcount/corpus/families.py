"""Families of sentences: one pattern is one family, and one family is one group of the split.

A pattern has slots in braces and choices in square brackets. The rule of its kind (see
:mod:`.grammar`) fills the slots that decide the label so that the label comes out as wanted. It
always depends on at least two words (what moved, and which way), in most kinds on their order too.
"""

import re

from headcount.corpus import grammar
from headcount.corpus.grammar import Family, Kind

_POLAR = (0.36, 0.0, 0.64)
_ANY = (0.22, 0.38, 0.4)
_NEUTRAL = (0.0, 1.0, 0.0)

KINDS = {
    "trend": Kind(grammar.trend, _POLAR, 0.09, 0.5, """
        {co}'s {q} [in|during] {period} {rose} by {pct}.

        In {period}, {q} at the {division} of {co} {rose} {pct} year on year.

        {co}, the {place}-based maker of {product}, said on [Monday|Tuesday] that its {q}
        [again|once more] {rose} sharply from the year before.

        According to {person}, {role} of {co}, {q} [in local currencies|as stated] {rose} in
        every market where the group operates.

        There was a [clear|visible|marked] {gain} at {co} during {period} in {q}, shows a
        [statement|filing] of {date}.

        The {division} of {co} saw its {q}, [stated|given] before group items, {rise} for the
        {nth} quarter [in a row|running].

        For {period} {co} has recorded a {pct} {gain} in what it calls comparable {q}.

        Shareholders were told in {place} on {date} that {q} had {risen} at {co} [since
        spring|since autumn].

        [Word|News] came from {co} that {q}, a figure watched by [lenders|fund managers], {rose}
        {pct} in {month}.

        With {product} from {place} counted in, {co}'s {q}, on an annual basis, {rose}.

        {rising} {q} marked {period} for {co}, which makes {product} in {place}.

        The audited accounts of {co} leave no doubt: {q}, year against year, {rose}.
        """),
    "hedge": Kind(grammar.trend, _POLAR, 0.13, 0.5, """
        {co} estimates that its {q} for {year} will [slightly|somewhat] {rise}.

        {co} is [likely|set] to see {q} in its {division} {rise} [a little|by some {pct}] in
        {year}.

        Preliminary figures suggest that {q} at {co} may have {risen} by [about|roughly] {pct}.

        Management guides, with the usual caution, for a [modest|limited] {gain} in {co}'s {q}
        [by|before] {month}.

        [If nothing unforeseen happens|Barring surprises], {q} could well {rise} by {pct} this
        year, {co} believes.
        """),
    "flip": Kind(grammar.flipped, _POLAR, 0.16, 0.5, """
        Contrary to what [brokers|the press] had written, {co}'s {q} did not {rise} in {period}.

        The {gain} seen for years in the {q} of {co} has come to a [halt|standstill].

        {co} no longer [expects|forecasts] that {q} of its {division} will {rise} in {year}.

        New rules in {place} have kept the {q} of {co} from {rising}, says {person}.

        {co} was unable to repeat in {period} the {gain} in {q} seen [a year before|in {year}].
        """),
    "rival": Kind(grammar.with_distractor, _POLAR, 0.15, 0.0, """
        While its rival {rival} saw {q2} {rise2}, {co}'s own {q} {rose} by {pct}.

        {co}'s {q} {rose} in {period}; at its competitor {rival}, {q2} {rose2} [in the same
        months|meanwhile].

        {co}, which competes in {place} with {rival}, where {q2} {rose2} last year, said its {q}
        {rose}.

        [Unlike|In contrast to] its peer {rival}, whose {q2} {rose2}, {co} had to report that {q}
        {rose} in {period}.

        A {gain} of {pct} in {q} was [published|released] by {co} on the day on which
        competitor {rival} spoke of a {gain2} in {q2}.
        """),
    "period": Kind(grammar.with_distractor, _POLAR, 0.15, 0.5, """
        {co}'s {q} {rose} in {period}, having {fallen} in the [preceding|previous] three months.

        After {q} had {fallen} for [two|three|four] years, {co} has now published figures
        according to which they {rose}.

        The {loss} that {co} had in {q} before {year} is history: by now a {gain} of {pct}
        [is on the books|has been booked].

        {q2} {rose2} in the days when {co} was run by {person}, but since {month} its {q} {rose}
        [steadily|by {pct}].
        """),
    "weigh": Kind(grammar.with_distractor, _POLAR, 0.17, 0.5, """
        At {co} the {gain} in {q} [outweighed|more than offset] the {gain2} in {q2} in {period}.

        The {gain2} in {q2} was more than [made up for|cancelled out] at {co} by the {gain} in
        {q}, said {person}.
        """),
    "numbers": Kind(grammar.numbers, (0.32, 0.11, 0.57), 0.12, 0.5, """
        {co}'s {q} amounted to {a} in {period}, compared with {b} a year earlier.

        {co} [posted|recorded] {q} of {a} in {period} ( {b} in the same period of the year
        before ).

        {q} went from {b} to {a} [between January and June|over the summer] in the {division}
        of {co}.

        {co} reported {q} of {a}, whereas analysts had on average [pencilled in|forecast] {b}.
        """),
    "rating": Kind(grammar.rating, _POLAR, 0.12, 0.5, """
        Broker {broker} now rates {co} as {a}, its [earlier|former] recommendation being {b}.

        The recommendation for shares in {co} is {a} rather than {b} [as of {date}|from today],
        {broker} writes.
        """),
    "swing": Kind(grammar.swing, _POLAR, 0.10, 0.5, """
        {co} made a pretax {now} of {sum} in {period} after a {then} of {sum2} [the year
        before|twelve months ago].

        Where {co} had booked a {then} of {sum} in {year}, its {division} now shows a {now} of
        {sum2}.

        From a {then} per share of {eps}, {co} has arrived at a {now} of {eps2}.
        """),
    "event": Kind(grammar.event, _POLAR, 0.12, 0.5, """
        The {event} concerning {co}'s plant in {place} was {lifted} on {date}.

        A court in {place} has [ruled|decided] that the {event} of {co} is to be {lifted}.

        {co} said that the {event} known since {month} had been {lifted} [today|this week].

        [Reporters heard|The press learned] from {person} that within weeks the {event} at {co}
        would be {lifted}.

        {lifted} since {date}: the {event} which {co}'s {division} had been [discussing|
        talking about] all year.

        """),
    "event-flip": Kind(grammar.event_flipped, _POLAR, 0.17, 0.5, """
        The {event} will not be {lifted} after all, {co}'s {role} {person} [says|wrote].

        Nobody is going to have the {event} {lifted}, {co} was told by [regulators|officials]
        in {place}.
        """),
    "deed": Kind(grammar.deed, _ANY, 0.08, 0.2, """
        {co} has {deed}, according to a [statement|release] of {date}.

        It was [announced|made public] in {place} on {date} that {co} has {deed}.

        {person}, {role} of {co}, confirmed to reporters that the firm has {deed}.

        The {division} of {co} has {deed} [|since {month}|in recent weeks].

        {co}, a maker of {product} with {count} employees, has {deed}.

        [Sources|Insiders] in {place} report: {co} has {deed}.

        Since {person} took over as {role} in {month}, {co} has {deed}.

        Readers of the {place} daily learn today that {co} has {deed}.

        "We can say that our company has {deed}," {person} told the staff of {co}.

        By the end of {period}, {co} has, to quote its {role}, {deed}.

        What {period} will be remembered for at {co}, {person} writes, is that it has {deed}.

        As of {date}, the {place} unit of {co} has {deed}.

        [For the first time|Once again] in its history, the {product} group {co} has {deed}.

        Asked about {period}, {co}'s {role} {person} replied that it has {deed}.

        {co} (sales: {sum}) has {deed}, a spokeswoman said by telephone.

        In [a letter|an e-mail] to its {count} shareholders, {co} explains that it has {deed}.

        The {nth} item of the bulletin reads: {co} of {place} has {deed}.

        {co}'s owner, {rival}, let it be known on {date} that its subsidiary has {deed}.

        The {place} office of {co} has {deed}, we were told on {date}.

        That {co} has {deed} came up at a [press conference|reception] in {place}.

        {co}: {product} group has {deed}.

        Late on {date}, {person} announced to the exchange that {co} has {deed}.

        Before the end of {year}, so {person}'s account, {co} has {deed}.

        Two years after {person} became its {role}, {co} has {deed}.

        The minister for trade told {place} radio that {co} has {deed}.

        {co}, founded by {person}, has {deed}.

        Page {number} of the [yearbook|brochure] shows how {co} has {deed}.

        Along with its suppliers in {place}, {co} has {deed}.

        {person} of {broker} writes to clients: {co} has {deed}.

        During {period} and without much ado, {co} has {deed}.

        The people behind the {product} brand of {co} say that it has {deed}.

        Only a few [hours|days] after {rival}'s conference, {co} has {deed}.

        Employees in {place} were the first to hear that {co} has {deed}.

        "Yes, {co} has {deed}", reads a message of {date}.

        On the way to {place}, {person} of {co} says that the group has {deed}.

        It is now official in {place}: {co} has {deed}.

        Both {co} and its partner {rival} have been in the news: {co} has {deed}.

        A blog on {product} [notes|mentions] that {co} has {deed}.
        """),
    "deed-rival": Kind(grammar.deed_and_rival, _ANY, 0.13, 0.0, """
        While {rival} has {deed2}, {co}, which is the subject of this note, has {deed}.

        {co} has {deed}; its competitor {rival} has {deed2}.

        Its rival {rival} may have {deed2}, but {co} itself has {deed}.

        {co}, not to be confused with {rival} which has {deed2}, has {deed}.
        """),
    "open": Kind(grammar.trend, _NEUTRAL, 0.11, 0.4, """
        It is too early to say whether {q} at {co} will {rise} in {year}, {person} [said|noted].

        {co} declined to comment on [rumours|reports] about whether its {q} {rose} in {period}.

        The [release|summary] does not indicate if {q} of the {division} of {co} {rose} or
        {fell}.

        [Any|Each] {gain} in {q} is from now on to be reported separately, {co}'s accounting
        manual lays down.

        Should {q} {rise}, the board of {co} would [discuss|consider] it at its meeting on
        {date}.

        Analysts are divided over {co}: half of them look for a {gain} in {q}, the other half
        for a {loss}.

        A {pct} {gain} in {q} is what would [trigger|activate] the bonus clause of {person},
        {role} of {co}.
        """),
    "unchanged": Kind(grammar.trend, _NEUTRAL, 0.09, 0.4, """
        {co}'s {q} in {period} neither {rose} nor {fell} to [speak of|any extent].

        {co} [repeats|reiterates] its estimate that {q} in {year} will be at the level of the
        year before.

        A {gain} in {q} during the first weeks and a {loss} of the same size afterwards left
        {co} where it [was|stood] in {month}.

        In {period}, {q} at {co} stayed [unchanged|the same], neither a {gain} nor a {loss}.

        {co}'s {division} kept its {q} at the level of {year}, with no {gain} in sight.

        No change in {q} at {co}: after {pct} the {gain} was followed by a {loss} of {pct}.

        {co} has [flat|stable] {q} to show for {period}, with no {gain} and no {loss}.
        """),
    "event-open": Kind(grammar.event, _NEUTRAL, 0.12, 0.4, """
        Whether the {event} should be {lifted} will be [put to|decided in] a vote of {co}'s board
        on {date}.

        The [magazine|newspaper] asks {person} of {co} what happens when a {event} is {lifted}.

        """),
    "aside": Kind(grammar.with_distractor, _NEUTRAL, 0.10, 0.0, """
        {co}, once part of {rival}, whose {q2} {rose2} last year, will move its head office
        to {place}.

        The report of {co} is due on {date}, a day after that of its rival {rival}, where {q2}
        {rose2}.

        {person} joins {co} as {role} from {rival}, a competitor whose {q2} {rose2} by {pct}.

        {co} has its [warehouse|offices] in {place} next door to those of {rival}, known for a
        {gain2} in {q2}.
        """),
    "fact": Kind(grammar.fact, _NEUTRAL, 0.05, 0.4, """
        {co} will publish its report for {period} on {date} at [8|9|10] o'clock.

        {co} has appointed {person} as {role} of its {division} as of {date}.

        {person}, {role}, has been with {co} since {year} and [lives|works] in {place}.

        Headquartered in {place}, {co} employs {count} people and [makes|sells] {product}.

        The annual general meeting of {co} will be held in {place} on {date}.

        The {division} [accounts for|makes up] about {pct} of {co}'s {q}.

        Of the {q} of {co}, {pct} came from {place} and {pct2} from {place2}.

        {co}'s {q} totalled {a} in {period}.

        Shares of {co} are listed on the [main|growth] market in {place}; the trading lot is
        {count} shares.

        {co} presents its {q} in accordance with [IFRS|local standards] and in millions of euros.

        In the {q} of {a} given by {co} for {year}, both {place} and {place2} are
        [included|counted].

        The number of shares that carry [voting|dividend] rights in {co} is {count}.

        The term {q} is defined in note {number} to the [consolidated|parent company] accounts of
        {co}.

        Questions about {q} may be [sent|addressed] to {person}, {role} at {co}, until {date}.

        {co} sells {product}, by tradition made in {place}, under [two|three] brands.

        The bonus scheme at {co} covers {count} employees and is tied to {q}.

        The [seminar|webcast] of {co} in {place} starts with {person} explaining how the group
        counts {q}.

        {co} and its customer {rival} have used the same [port|rail terminal] in {place} since
        {year}.

        A table on page {number} lists {q} of {co} by country, with {a} for the {division}.

        The plot in {place} on which {co} keeps its {product} measures {count} square metres.

        {co} has {count} shareholders, {pct} of them [private individuals|abroad], its register
        of {date} says.
        """),
}  # fmt: skip


def _families() -> tuple[Family, ...]:
    found: list[Family] = []
    for name, kind in KINDS.items():
        paragraphs = re.split(r"\n\s*\n", kind.patterns.strip())
        for number, pattern in enumerate(paragraphs, start=1):
            pattern = " ".join(pattern.split())
            found.append(Family(f"{name}-{number:02d}", kind, pattern, deal=len(found)))
    return tuple(found)


FAMILIES = _families()
