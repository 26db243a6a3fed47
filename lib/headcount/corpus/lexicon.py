"""Words of the synthetic corpus. Every name of a company or a person is invented.

``SHARED`` words may turn up in every family of sentences; each ``RARE`` word is dealt to a few
families (see :mod:`.grammar`), so a family kept for testing brings words that
training never showed.
"""

from random import Random
from typing import NamedTuple

from headcount.corpus.deeds import DEEDS as _PHRASES


class Quantity(NamedTuple):
    """Something a company reports; more of it is good (polarity 1) or bad (-1)."""

    text: str
    polarity: int
    unit: str  # "eur", "percent" or "count": how its amounts are written


class Verb(NamedTuple):
    """The forms of a verb of movement: fell, fall, fallen, falling."""

    past: str
    base: str
    participle: str
    gerund: str


def _split(words: str) -> list[str]:
    return [" ".join(word.split()) for word in words.split(",")]


def _quantities(polarity: int, **by_unit: str) -> list[Quantity]:
    return [Quantity(w, polarity, u) for u, words in by_unit.items() for w in _split(words)]


def _verbs(table: str) -> list[Verb]:
    return [Verb(*(form.replace("_", " ") for form in row.split())) for row in _split(table)]


SHARED_QUANTITIES = {
    1: _quantities(
        1,
        eur="net sales, operating profit, pretax profit, order intake, revenue, cash flow",
        percent="market share, operating margin, capacity utilisation",
        count="deliveries, subscriber numbers",
    ),
    -1: _quantities(
        -1,
        eur="operating costs, operating loss, net loss, net debt, loan losses, interest expenses",
        percent="defect rate, staff turnover, vacancy rate",
        count="customer complaints, cancelled orders",
    ),
}

RARE_QUANTITIES = {
    1: _quantities(
        1,
        eur="""turnover, gross earnings, licence income, rental income, service revenue,
            export income, tender wins, commission income, royalties, online takings,
            premium income, box-office receipts, assets under management, liquid funds,
            aftermarket sales, EBITDA, shareholder returns, equity, funding raised, bookings""",
        percent="""gross margin, occupancy rate, return on equity, renewal rate, punctuality,
            customer satisfaction, equity ratio, production yield, brand awareness""",
        count="""passenger numbers, new customers, store visits, units shipped, guest nights,
            cars sold, patents granted, active users, crop yields""",
    ),
    -1: _quantities(
        -1,
        eur="""raw material costs, restructuring charges, write-downs, overdue receivables,
            freight costs, warranty claims, legal fees, penalty payments, pension liabilities,
            insurance payouts, import duties, pretax loss, fraud losses, bad debts, overheads,
            wage bill, rent arrears, tax burden, cost overruns, borrowing costs""",
        percent="""churn rate, sick leave rate, scrap rate, gearing, default rate, downtime,
            product return rate, fuel consumption, share of late payments""",
        count="""workplace accidents, machine stoppages, delivery delays, product recalls,
            unsold apartments, network outages, job cuts, billing errors, bankruptcies""",
    ),
}

SHARED_VERBS = {
    1: _verbs("""rose rise risen rising, increased increase increased increasing,
        grew grow grown growing, climbed climb climbed climbing,
        went_up go_up gone_up going_up"""),
    -1: _verbs("""fell fall fallen falling, decreased decrease decreased decreasing,
        declined decline declined declining, dropped drop dropped dropping,
        went_down go_down gone_down going_down"""),
}

RARE_VERBS = {
    1: _verbs("""jumped jump jumped jumping, surged surge surged surging,
        soared soar soared soaring, swelled swell swelled swelling,
        ballooned balloon ballooned ballooning, expanded expand expanded expanding,
        crept_up creep_up crept_up creeping_up, doubled double doubled doubling,
        mounted mount mounted mounting, leapt leap leapt leaping,
        picked_up pick_up picked_up picking_up, shot_up shoot_up shot_up shooting_up,
        rocketed rocket rocketed rocketing, multiplied multiply multiplied multiplying,
        edged_higher edge_higher edged_higher edging_higher,
        accelerated accelerate accelerated accelerating, spiked spike spiked spiking"""),
    -1: _verbs("""shrank shrink shrunk shrinking, slid slide slid sliding,
        tumbled tumble tumbled tumbling, contracted contract contracted contracting,
        dwindled dwindle dwindled dwindling, plunged plunge plunged plunging,
        slipped slip slipped slipping, halved halve halved halving,
        receded recede receded receding, diminished diminish diminished diminishing,
        came_down come_down come_down coming_down, sank sink sunk sinking,
        plummeted plummet plummeted plummeting, lessened lessen lessened lessening,
        edged_lower edge_lower edged_lower edging_lower,
        abated abate abated abating, crumbled crumble crumbled crumbling"""),
}

# Losses and debts have verbs of their own; they never go with sales.
LOSS_VERBS = {
    1: _verbs("widened widen widened widening, deepened deepen deepened deepening"),
    -1: _verbs("narrowed narrow narrowed narrowing, eased ease eased easing"),
}

SHARED_NOUNS = {1: _split("rise, increase, upturn"), -1: _split("fall, decrease, decline")}
RARE_NOUNS = {
    1: _split("climb, jump, surge, expansion, spike, upswing, acceleration, build-up, leap"),
    -1: _split("drop, slide, contraction, reduction, slump, dip, plunge, shrinkage, downswing"),
}

SHARED_EVENTS = {
    1: _split("supply contract, dividend, export permit, share buyback"),
    -1: _split("profit warning, strike, sales ban, lawsuit"),
}
RARE_EVENTS = {
    1: _split("""credit facility, tax relief, joint venture, framework order, mining licence,
        investment grant, rescue loan, quality certificate, research partnership, bonus issue,
        listing on the main market, rent subsidy"""),
    -1: _split("""antitrust probe, product recall, hiring freeze, production halt,
        criminal complaint, trading suspension, environmental fine, boycott, eviction order,
        insolvency petition, punitive tariff, blockade of the site"""),
}
# Direction 1: the thing is there or stays; -1: it goes away.
SHARED_FATES = {
    1: _split("confirmed, renewed, extended"),
    -1: _split("withdrawn, cancelled, lifted"),
}
RARE_FATES = {
    1: _split("upheld, prolonged, reinstated, approved, put in place, ratified, kept in force"),
    -1: _split("revoked, called off, dropped, scrapped, overturned, rescinded, discontinued"),
}

# What a writer adds at the end; alone it gives the label away, so most sentences go without.
SHARED_TAILS = {
    1: _split("to the delight of shareholders, a pleasing result, better than feared"),
    0: _split("a notice to the exchange reads, as in earlier years, without further details"),
    -1: _split("to the dismay of shareholders, a disappointing result, worse than hoped"),
}
RARE_TAILS = {
    1: _split("""the strongest showing in years, which cheered investors, a success for the board,
        and the shares were in demand, which bodes well, an encouraging sign, a relief to lenders,
        which brokers welcomed, an excellent performance, a boost to confidence"""),
    0: _split("""in line with its articles, as is customary, its website says, for information,
        as required by law, following the usual timetable, as agreed before, no reason is given,
        under general information, the minutes show"""),
    -1: _split("""the weakest showing in years, which unsettled investors, a setback for the board,
        and the shares came under pressure, which bodes ill, a worrying sign, a blow to lenders,
        which brokers criticised, a poor performance, a dent in confidence"""),
}

DEEDS = {sign: [line.strip() for line in _PHRASES[sign].strip().splitlines()] for sign in _PHRASES}

RATINGS = _split("sell, reduce, hold, accumulate, buy")  # worst to best

PLACES = _split("""Malmö, Århus, Tampere, Oulu, Göteborg, Riga, Tallinn, Gdansk, Rotterdam, Lyon,
    Graz, Bilbao, Porto, Zürich, Leeds, Cork, Bremen, Brno, Turin, Ghent, Bergen, Örebro, Basel""")
PRODUCTS = _split("""packaging board, crane gearboxes, hearing aids, flooring, dental implants,
    yoghurt, mobile games, fishing reels, paper machines, forklifts, insulation, school furniture,
    tyres, x-ray tubes, ship propellers, chocolate, tax software, lifts, fertiliser, smart locks""")
DIVISIONS = _split("""packaging division, consumer segment, Baltic subsidiary, wholesale arm,
    marine unit, services business, forestry division, online store, health care segment,
    cables unit, logistics arm, media business, steel mill, Nordic branch network""")
ROLES = _split("""chief executive, chief financial officer, head of investor relations, chair,
    deputy managing director, treasurer, head of strategy, group controller""")
FIRST_NAMES = _split("Aino, Björn, Carla, Dmitri, Elin, Frans, Greta, Håkan, Ida, Jussi, Katri")
LAST_NAMES = _split("Voskela, Brandtholm, Quisley, Ternvik, Orsdal, Hullmark, Pyrhola, Yxberg")
MONTHS = _split("""January, February, March, April, May, June, July, August, September, October,
    November, December""")
ORDINALS = _split("first, second, third, fourth")

_ONSETS = "Bralv Drosk Ferm Glanv Hesk Jorv Klemt Lundr Morv Nelq Orkv Prasv Quorn Rusk Skelv Tolm"
_ENDS = "ada, eqo, ihar, ontis, umer, axo, evik, olin, ystra, ugard, enza, imax"
_SUFFIXES = "Oyj, AB, plc, Group, ASA, Holding, AG,,,,"


def company(rng: Random) -> str:
    """Make up a company: 16 x 12 names, with or without a legal form."""
    name = rng.choice(_ONSETS.split()) + rng.choice(_split(_ENDS))
    return f"{name} {rng.choice(_SUFFIXES.split(',')).strip()}".strip()


def person(rng: Random) -> str:
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"


def percent(rng: Random) -> str:
    return f"{rng.choice((rng.randint(2, 60), round(rng.uniform(1.1, 39.9), 1)))} %"


def year(rng: Random) -> str:
    return str(rng.randint(2003, 2014))


def month(rng: Random) -> str:
    return f"{rng.choice(MONTHS)} {year(rng)}"


def date(rng: Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"


def period(rng: Random) -> str:
    part = rng.choice((f"{rng.choice(ORDINALS)} quarter", "first half", "second half", "whole"))
    return f"the {part} of {year(rng)}"


def count(rng: Random) -> str:
    return f"{rng.randint(40, 9000):,}"


def amount(unit: str, value: float) -> str:
    """Write an amount as the press does: ``EUR 12.4 mn``, ``12.4 %`` or ``1,240``."""
    if unit == "count":
        return f"{round(value * 100):,}"
    return f"EUR {value:.1f} mn" if unit == "eur" else f"{value:.1f} %"


def some_amount(rng: Random) -> str:
    return amount("eur", rng.uniform(1, 99))


def per_share(rng: Random) -> str:
    return f"EUR {rng.uniform(0.02, 4):.2f}"
