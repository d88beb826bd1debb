"""The answer that comes first: whether it helps, by how much, whether that is beyond noise, and how the best model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import ANNEAL
from rna_watch.acceleration.significance import ranked
from rna_watch.comparison.findings import provenance
from rna_watch.exporters.curves import name_of
from rna_watch.exporters.markup import Markup, join, tag
from rna_watch.exporters.outputs import manifest_of, place_of
from rna_watch.exporters.weights import of_layers
from rna_watch.formats import registry
from rna_watch.journal.cooled import cooled, sentence
from rna_watch.journal.quantities import gain, number, places, plain
from rna_watch.journal.words import NOISE

if TYPE_CHECKING:
    from rna_watch.comparison.comparison import Comparison
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.journal.standing import Standing

_LEADS = {True: "It helps", False: "It may help", None: "A better model is there"}
_TEST = (
    "To have gains compared with noise, let the evaluator return a value for each example, or give --minimum-gain: the "
    "smallest gain that counts."
)
_APART = "between two checkpoints, as here, --minimum-gain alone (the smallest gain that counts) tells what noise is."


def said(c: Comparison) -> set[str]:
    """The sentences of a comparison that stand at the top of the page."""
    return {
        line
        for line in provenance(c)
        if line.casefold() in {f"{plain(each)}.".casefold() for each in (c.stands, c.cooled)}
    }


def section(state: RunState, paths: RunPaths, c: Comparison | None) -> Markup:
    """The first section of the page.

    Args:
        state: what the journal adds up to.
        paths: where the models lie.
        c: the comparison, if anything was evaluated.
    """
    standing = c.standing if c else None
    branch = cooled(state)
    return tag(
        "section",
        *(_of_standing(standing) if standing and (standing.model or standing.original) else [_unknown(state, c)]),
        _noise(standing, state) if standing else None,
        *_kinds(c, state) if c else (),
        tag("p", _capital(plain(sentence(branch))) + ".") if branch else None,
        _loading(state, paths, standing),
    )


def of_another(c: Comparison) -> Markup:
    """The answer for another sequence of the folder."""
    standing = c.standing
    told = _of_standing(standing) if standing and (standing.model or standing.original) else []
    return tag("section", tag("h2", plain(c.sequence)), *told)


def _kinds(c: Comparison, state: RunState) -> list[Markup]:
    """How the best model was made, and what each kind reached at its best."""
    found = {}
    for kind in c.kinds:
        rows = [(value, row.step) for row in c.rows if (value := row.value(kind)) is not None]
        if rows:
            found[kind] = ranked(rows, lambda each: each[0], c.mode)[0]
    decimals = places([value for value, _ in found.values()])
    reached = [f"{name_of(k)} {number(value, decimals)} ({c.step_kind} {step})" for k, (value, step) in found.items()]
    told = [f"The best {plain(c.metric)} of each kind: {', '.join(reached)}."] if len(reached) > 1 else []
    model = c.standing.model if c.standing else None
    checkpoint = state.checkpoints.get(model.checkpoint) if model else None
    chosen = checkpoint.chosen if checkpoint else None
    if chosen and c.standing and (c.standing.gain or 0.0) > 0.0:
        how = (
            "trained, by a short cooldown: neither RNA nor an average"
            if chosen.method == ANNEAL
            else plain(chosen.candidate)
        )
        told.insert(0, f"The best model is {how}.")
    return [tag("p", " ".join(told))] if told else []


def _noise(standing: Standing, state: RunState) -> Markup | None:
    """What is known of noise, and how to know more, where the gain is not compared with it."""
    model, original = standing.model, standing.original
    if model is None or original is None or (standing.gain or 0.0) <= 0.0 or standing.significant is not None:
        return None
    checkpoint = state.checkpoints.get(model.checkpoint)
    tested = checkpoint.chosen.significant if checkpoint and checkpoint.chosen else None
    if model.checkpoint == original.checkpoint or tested is None:
        return tag("p", _TEST, class_="soft")
    own = (
        f"Over the original of its own checkpoint, {plain(model.checkpoint)}, the best model's gain is {NOISE[tested]}"
    )
    return tag("p", f"{own}; {_APART}", class_="soft")


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _unknown(state: RunState, c: Comparison | None) -> Markup:
    count = len(state.outputs)
    models = f"{count} model{'s were' if count != 1 else ' was'} written"
    if c is None:
        return join(
            tag(
                "p",
                f"Not known: {models}, and nothing was evaluated by a metric with a known direction.",
                class_="lead",
            ),
            tag("p", "With --evaluator FILE.py:function, rna-watch says whether they help, and by how much."),
        )
    return tag("p", f"Not known yet: {models}, and none of them can be compared.", class_="lead")


def _of_standing(standing: Standing) -> list[Markup]:
    model, original = standing.model, standing.original
    decimals = places(each.value for each in (model, original) if each)
    ours = number(model.value, decimals) if model else ""
    theirs = number(original.value, decimals) if original else ""
    metric = plain(standing.metric)
    cards = []
    if model:
        cards.append(
            _card("best model" if standing.best else "best model that is there", f"{metric} {ours}", model.output)
        )
    if original:
        cards.append(_card("best original", f"{metric} {theirs}", original.checkpoint))
    if model is None or original is None or standing.gain is None:
        lead = (
            "No model was written that could be compared." if model is None else f"The best model has {metric} {ours}."
        )
        return [tag("p", lead, class_="lead"), tag("div", *cards, class_="cards")]
    share = gain(original.value, model.value, standing.mode) or f"{standing.gain:+.3g}"
    noise = NOISE[standing.significant]
    tested = f"tested on {plain(standing.tested_on)}" if standing.tested_on not in {None, standing.metric} else ""
    cards.append(_card("gain", share, f"{standing.gain:+.3g} of {metric}"))
    if standing.gain > 0.0:
        cards.append(_card("noise", noise, tested))
        lead = f"{_LEADS[standing.significant]}: {metric} {ours} instead of {theirs}, a gain of {share}, {noise}."
    elif standing.gain == 0.0:
        lead = f"It does not help so far: the best original is as good as the best model, {metric} {theirs}."
    else:
        lead = f"It does not help so far: the best original, {metric} {theirs}, is better than the best model, {ours}."
    return [tag("p", lead, class_="lead"), tag("div", *cards, class_="cards")]


def _card(title: str, value: str, below: str) -> Markup:
    return tag("div", tag("span", title), tag("b", value), tag("span", plain(below)), class_="card")


def _loading(state: RunState, paths: RunPaths, standing: Standing | None) -> Markup | None:
    """The lines that load the better one of the best model and the best original; the newest model, if nothing was evaluated."""
    model, original = (standing.model, standing.original) if standing else (None, None)
    if standing and original and (model is None or (standing.gain is not None and standing.gain < 0.0)):
        admitted = state.checkpoints[original.checkpoint].admitted
        where = str(paths.run / admitted.path) if admitted else ""
        return _lines(
            "To load the best original", where, admitted.format if admitted else "", admitted.source if admitted else ""
        )
    output = model.output if model else next((each for each in reversed(state.outputs) if paths.there(each)), None)
    if output is None:
        return None
    published = state.outputs.get(output)
    checkpoint = state.checkpoints.get(model.checkpoint if model else published.checkpoint if published else "")
    admitted = checkpoint.admitted if checkpoint else None
    manifest = manifest_of(paths, output)
    title = "To load the best model" if model else "To load the newest model"
    export = manifest.get("export")
    plain_copy = place_of(paths, output).with_name(export) if isinstance(export, str) and "/" not in export else None
    return join(
        _lines(
            title,
            str(place_of(paths, output)),
            admitted.format if admitted else "",
            admitted.source if admitted else "",
        ),
        _lines("Or its plain copy", str(plain_copy), "safetensors", "") if plain_copy else None,
        tag("p", warning, class_="soft") if isinstance(warning := manifest.get("warning"), str) else None,
        of_layers(manifest) if model else None,
    )


def _lines(title: str, path: str, format_name: str, source: str) -> Markup:
    lines = registry.loading(format_name, path, source)
    return join(tag("h3", title), tag("pre", tag("code", "\n".join(lines))))
