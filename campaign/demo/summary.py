"""What a demo says of itself: before it begins what it takes, and afterwards what was got for how many answers."""

from __future__ import annotations

from typing import Any

from campaign.demo.preparation import DemoOptions
from campaign.derived.team import PUBLISHED_ANSWER, PUBLISHED_DRAWING


def beforehand(options: DemoOptions) -> str:
    """What will be done, where everything goes, and what it takes of time and disk."""
    if options.data is not None:
        what = f"a campaign on {options.data}, with a detector trained on its labelled images"
        takes = "tens of minutes on two cores; `minutes` among the detector's options bounds the training"
    else:
        labelled, pool, heldout = options.scenes
        what = f"{labelled + pool + heldout} pictures of hardware on a workbench, and a campaign on them"
        takes = "about 4 minutes on two cores" if options.is_drawn else "10 to 25 minutes on two cores, mostly training"
    by = "you answer" if options.human else f"{options.users} simulated annotators answer"
    if options.human and options.is_drawn:
        takes = "a minute or two until the first page, then some 30 pages, about a quarter of an hour"
    return (
        f"The demo: {what}, on a Label Studio of its own; {by}.\n"
        f"  takes   {takes}; some 200 MB of disk\n"
        f"  put in  {options.out.resolve()}\n"
        "  network all on this machine, on 127.0.0.1; run it again and it goes on where it stopped"
    )


def minutes(answers: float) -> str:
    """How long so many answers take people, by the published pace.

    >>> minutes(400), minutes(30_000)
    ('10 minutes', '12.5 hours')
    """
    return span(answers * PUBLISHED_ANSWER)


def span(seconds: float) -> str:
    """Seconds as people say them: minutes, and from two hours on hours."""
    if seconds < 7200:
        return f"{max(seconds / 60, 1):.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def summary(result: dict[str, Any]) -> str:
    """What a demo reached, in some lines for a terminal, from its figures."""
    got, asked, right, objects = (result[name] for name in ("masks", "questions", "correct", "true_masks"))
    lines = ["", f"Finished in {result['minutes']} minutes, after round {result['rounds']}.", ""]
    lines.append(f"Got       {got:,} masks. {result['promise']}.")
    if got:
        lines.append(
            f"          In truth, which a demo knows, {100 * result['precision']:.1f} % of them are correct; they are "
            f"{right:,} of all {objects:,} objects."
        )
    lines.append(
        f"Asked     {asked + result['gold']:,} answers, about {minutes(asked + result['gold'])} of people's time: "
        f"{asked:,} questions, {result['draws']:,} of them to prove the promise, and {result['gold']:,} gold masks."
    )
    lines.append(
        f"Drawing   {right:,} masks by hand would take {span(right * PUBLISHED_DRAWING)} "
        f"(published: {PUBLISHED_DRAWING:.0f} s for a drawn mask, {PUBLISHED_ANSWER} s for an answer)."
    )
    if result["recall_estimate"] is not None:
        lines.append(
            f"Missing   annotators looked through {result['looked']} images for objects without a mask: by that "
            f"{100 * result['recall_estimate']:.0f} % have one, in truth {100 * result['recall']:.0f} %."
        )
    if result["drawn"]:
        lines.append(
            "Not shown a training: this detector spoils known masks, less in the second round, as it was given more.\n"
            "          `campaign demo --train` trains one (10 to 25 minutes)."
        )
    lines += [
        "",
        "Look at",
        f"  report       {result['report']}",
        f"  masks        {result['export']} (COCO), data card {result['card']}",
        f"  lead's page  campaign serve {result['campaign']}, then {result['lead']}",
        f"               user {result['lead_user']}, password {result['lead_password']}",
        "  your own     campaign init mine --label-studio URL --source-project N, then campaign run mine",
    ]
    return "\n".join(lines)
