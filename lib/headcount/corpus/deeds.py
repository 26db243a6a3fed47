"""What a company can have done: phrases that fit after "has", and are good, bad or no news."""

DEEDS = {
    1: """
        won a large order from a shipyard
        signed a long-term deal with a hospital chain
        opened a second factory to meet demand
        hired two hundred engineers
        raised its full-year guidance
        beaten its own targets
        paid off its loans early
        gained a foothold in Asia
        outperformed the market
        returned to profit
        secured funding for its expansion
        received approval for its new drug
        doubled its dividend
        been upgraded by a rating agency
        landed a contract with the navy
        become the market leader
        found a cheaper production method
        launched a product that sells out within hours
        attracted strong interest from investors
        improved its efficiency
        strengthened its balance sheet
        recovered from the downturn
        expanded its store network
        found a buyer for its ailing unit
        been awarded a quality prize
        boosted its competitiveness
        completed the tunnel ahead of schedule
        benefited from brisk demand
        won a patent case
        extended its lead over competitors
        sold out its production for next year
        exceeded the expectations of analysts
        made a breakthrough in battery research
        been chosen as supplier by a carmaker
        created hundreds of jobs
        enjoyed its best spring ever
        turned its shops into a success
        won back a major client
        been cleared of all charges
        earned praise for its safety record
        captured a bigger slice of the export trade
        reached a favourable settlement
        profited from cheap oil
        gone from strength to strength
        pleased investors with a bonus payout
        solved the quality problems of its boilers
        seen its shares soar
        brought its first turbine into operation
        regained the trust of its lenders
        filled its order book to the brim
        impressed brokers with a fast recovery
        picked up three new customers
        repaid a state loan ahead of time
        won the bidding for a port
        lifted its sales target
        delivered the best figures in its history
        conquered new markets in Brazil
        made its mines safer and cheaper to run
        gained from lively trade in furniture
        overtaken its strongest competitor
        added a night shift to keep up with orders
        been praised as a model of good management
        reduced its debts
        been rewarded with a seven-year agreement
        cured the weak spot of its pumps
        posted a surplus
        obtained a patent for its glue
        rescued a plant from closure
        thrilled its owners with a special dividend
        been named a preferred partner
        succeeded in the American market
        doubled its capacity because of popular demand
    """,
    -1: """
        laid off two hundred employees
        closed its oldest factory
        issued a gloomy outlook
        lost its largest customer
        filed for protection from creditors
        been fined for price fixing
        recalled faulty brakes
        defaulted on a bond
        cut its full-year guidance
        missed its own targets
        slipped into the red
        suspended its dividend
        been downgraded by a rating agency
        failed to win approval for its vaccine
        suffered from weak demand
        been hit by walkouts
        lost ground to cheaper competitors
        been sued by former partners
        halted production because of a fire
        delayed the launch after technical problems
        written off its investment
        run out of cash
        breached the terms of its loan
        seen its shares plunge
        admitted errors in its accounts
        scrapped its expansion plans
        been excluded from a tender
        struggled with excess capacity
        fallen behind schedule
        put staff on unpaid leave
        disappointed the market
        become the target of a fraud investigation
        lost a patent case
        been forced to sell its best unit
        needed an emergency loan
        been hurt by sluggish exports
        shut down its unprofitable shops
        warned of a difficult winter
        been stripped of a permit
        damaged its reputation
        faced a wave of complaints
        been abandoned by its backers
        withdrawn from a shrinking market
        drawn criticism for unsafe toys
        been left with unsold stock
        squandered its lead
        been weakened by the crisis
        suffered a costly breakdown
        forfeited the trust of its lenders
        lost three key accounts
        alarmed brokers with a sudden shortfall
        dismissed a third of its workers
        asked for more time to repay a loan
        lost the bidding for a port
        lowered its sales target
        delivered the worst figures in its history
        retreated from Brazil after heavy losses
        been blamed for an accident in its mine
        suffered under slow trade in furniture
        been overtaken by its strongest competitor
        cancelled a night shift for lack of orders
        been accused of poor management
        sunk deeper into debt
        been punished with a ban on exports
        discovered a dangerous flaw in its pumps
        posted a deficit
        been refused a patent for its glue
        given up a plant
        angered its owners with a rights issue
        been dropped as a partner
        failed in the American market
        left half of its capacity idle because of poor demand
    """,
    0: """
        changed its ticker symbol
        moved its head office across town
        published its financial calendar
        appointed an auditor
        renamed its service unit
        translated its website into Swedish
        convened its general meeting
        transferred its shares to another list
        held a seminar for students
        adopted the revised accounting standard
        sent its yearbook to shareholders
        replaced its bookkeeping software
        updated its articles of association
        merged two legal entities
        registered a trade name
        stated the number of its shares
        described its remuneration principles
        granted options to its directors
        taken part in a trade fair
        opened the registration for its meeting
        disclosed a change in its holdings
        started using another logo
        switched its reporting currency
        announced the date of its report
        signed the minutes of the meeting
        listed its subsidiaries
        answered a questionnaire of the exchange
        filed its yearly statement
        named a deputy secretary
        relocated its archive
        described the market in which it operates
        kept its fiscal year as it was
        renumbered the notes to its accounts
        notified the register of its address
        invited analysts to a lunch
        explained how it values property
        corrected a misprint in a brochure
        leased a car park for visitors
        divided its reporting into three segments
        bought office chairs
        exchanged its telephone system
        set the record date for its ballot
        elected a committee of three members
        hosted a visit of pupils
        photographed its board
        renewed its lease on a warehouse
        moved its deadline for questions to noon
        given its canteen to a caterer
        put a map of its sites on display
        set up a reading room
        ordered the printing of its statutes
        changed the time of its webcast
        lent a painting to a museum
        confirmed the date of its centenary
        distributed its newsletter
        explained the wording of a footnote
        used the same bank since its foundation
        numbered its buildings
        shown a film about its history
        assigned a code to each of its units
        held a meeting on Tuesday
        copied its files to another server
        kept its registered office in the same town
        designated a contact for the press
        repainted its vans
        received a delegation of teachers
        counted the votes of its members
        scheduled an information event
        posted the text of a speech
        chosen the colour of its logo
        described the duties of its secretary
        recorded the minutes in two languages
    """,
}
