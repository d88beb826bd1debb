"""The direction of a metric, told from the whole words of its name: to be maximized, to be minimized, or not known.

The last word that says something decides, because it is the head of an English compound (`error_rate`, `accuracy_error`,
`error_detection_f1`). Three things come before that: a loss is one whatever it is made of (`loss_giou`), what follows a
preposition is a condition (`fpr@95`, `loss_per_token`), and a negation turns the rest (`neg_mean_squared_error`). Words
that are in no list say nothing, and a name of such words alone is not known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rna_watch.acceleration.significance import Mode

    _Said = Literal["max", "min", "unknown", ""]  # the last: it says nothing
    _Tier = Mapping[str, _Said]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _tier(maximized: str, minimized: str, unknown: str = "") -> _Tier:
    """A list of words with what each says; where a term has several words, they are glued to one."""
    sides: tuple[tuple[_Said, str], ...] = (("max", maximized), ("min", minimized), ("unknown", unknown))
    return {term.replace("-", ""): said for said, terms in sides for term in terms.split()}


# Each list decides alone if one of its words is there. First: the metrics proper, and nouns that have no better side.
_METRICS = """
    acc accuracy aacc macc auc auroc roc rocauc aucroc auprc aupr aucpr prauc gauc ap apl apm aps map ar prec precision
    rec recall ppv npv tpr tnr f1 f2 fscore f-score f1score f-measure f-beta mcc matthews kappa qwk youden specificity
    sensitivity iou miou giou ciou diou fwiou mean-iou jaccard dice mdice dsc nsd pq sq rq mota amota hota idf1 nds pck
    oks fitness lddt plddt bleu sacrebleu rouge rougel rougelsum meteor chrf cider spice gleu bertscore bleurt comet
    mauve em mc1 mc2 uas las ndcg dcg mrr hr hitrate hit-rate r1 r5 r10 rank1 rank5 rank10 rank-1 rank-5 rank-10 r2 d2
    psnr ssim ms-ssim vmaf pesq stoi estoi snr sdr si-sdr si-snr mos dnsmos utmos nmi ari ami rand silhouette calinski
    purity homogeneity pearson pearsonr spearman spearmanr kendall kendalltau correlation corr corrcoef plcc srcc ccc
    concordance c-index gini sharpe fps qps throughput mfu elbo likelihood loglik logprob log-prob similarity agreement
    fidelity explained-variance explained-var r-squared exact exact-match average-precision area-under v-measure
    r-measure fowlkes-mallows mutual-info mutual-information signal-to-noise signal-noise signal-to-distortion
    signal-distortion negative-predictive-value true-positive true-negative positive-likelihood-ratio elo
    inception-score tm-score gdt intersection-over-union delta1 delta2 delta3 dunn cramers tschuprows theils wip
    info-preserved short-time-objective d2-absolute-error d2-log-loss d2-brier d2-pinball d2-tweedie mar winrate
    win-rate tflop ctr cosine-sim cos-sim predictive-value inverse-harmonic-mean-rank mean-rank-index reciprocal-rank
    spider detection-rate
    """
_ERRORS = """
    loss err error mse rmse mae mape smape wape wmape mase msle rmsle nrmse nmse rrse rae mdae nll ce bce xent xe
    crossentropy cross-entropy kld kl-divergence logloss log-loss mlogloss merror brier hinge huber pinball poisson
    tweedie deviance perplexity ppl bpb bpc bpd bits wer cer mer ter der eer jer ler mcd dcf min-dcf mindcf fpr fnr fdr
    far frr ece crps aurc nelbo fid kid fvd fad lpips dists frechet niqe brisque piqe chamfer emd hausdorff wasserstein
    hd95 assd asd mpjpe pampjpe mpvpe epe aepe ade fde nme rmsd abs-rel sq-rel silog log10 l1 l2 mate maoe mave maae
    amotp davies incorrect wrong false-positive false-negative false-alarm false-discovery fall-out miss-rate mean-rank
    median-rank average-rank negative-likelihood-ratio real-time-factor distance deviation discrepancy distortion
    divergence residual disparity wil info-lost edit-rate learned-perceptual ranked-probability texture-similarity
    regret gap mistake misclassification mismatch latency runtime delay interval-score energy-score attack-success
    misclassified levenshtein edit-dist editdistance hter apcer bpcer acer infonce info-nce kullback medr mnr mce
    """
_SIDELESS = """
    std stdev stddev stderr variance var threshold thresh scale weight decay loss-coef entropy length len size memory
    difference diff temperature lr confidence patience rejected anomaly docking l1-norm l2-norm self-bleu learning-rate
    loss-lambda
    """
_TIERS: tuple[_Tier, ...] = (
    _tier(_METRICS, _ERRORS, _SIDELESS),
    # subjects: they may be what a metric is about (`toxicity_auroc`)
    _tier(
        """
        reward rew return success successful win won solved correct hit passed pass-rate pass maj cons margin quality
        helpfulness harmlessness faithfulness relevance factuality truthfulness validity uniqueness aesthetic
        completeness reliability profit pnl coherence naturalness intelligibility
        """,
        "fail failure failed miss cost penalty risk violation collision crash toxicity hallucination harm false outlier",
    ),
    _tier("score rating", ""),
)
_PHRASES = {term for terms in (_METRICS, _ERRORS, _SIDELESS, "pass-rate") for term in terms.split() if "-" in term}
_PHRASE = re.compile(rf"\b({'|'.join(sorted(_PHRASES, key=len, reverse=True)).replace('-', ' ')})(s?)\b")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+|\w")
_LOSS = frozenset({"loss", "losses"})
# what models are ranked by beside another metric, but for losses of data that only such metrics name too
_RANKING = re.compile(r"\b(loss(es)?|nll|cross ?entropy|ce)\b")
_NOT_CHOSEN_ON = frozenset({"train", "test"})
_OPPOSITE: Mapping[_Said, _Said] = {"max": "min", "min": "max", "unknown": "unknown", "": ""}

# what may stand glued before a word (`valloss`), and says nothing of time either (`val_time`)
_PARTS = _set("training train validation valid val test eval dev best avg mean total max min")
_GLUED = re.compile(rf"(?:{'|'.join(_PARTS)})(\w{{3,}})")
_NEGATED = re.compile(r"(?:in|im|un|mis|dis|non)(\w{4,})")

_PREPOSITIONS = _set("at per of on for in over under with without by from to vs given")
_RANKS = _set("p r s k rank top")  # with a number behind `@` they are measures of retrieval
_UNITS = _set("s sec secs second seconds ms us minute minutes min hour hours day days")
_TIMES = frozenset({"time", "times", "duration"})
_PASSING = _set("wall elapsed start end real cpu global current cumulative")

_MINUS = frozenset({"neg", "negative", "negated", "minus"})
_NONE = frozenset({"no", "not", "non", "zero"})
_STATISTICS = _set(
    "mean median root max average avg total sum log squared absolute normalized percentage relative poisson gamma "
    "tweedie one 1"
)
# of these `neg_` names the class that is meant
_OF_A_CLASS = _set("acc accuracy f1 recall precision prec ap auc iou dice")
_CHANGES: Mapping[str, Literal["same", "opposite", "max", "min"]] = {
    **dict.fromkeys(("reduction", "decrease", "drop", "decline"), "opposite"),
    **dict.fromkeys(("increase", "growth"), "same"),
    **dict.fromkeys(("improvement", "gain", "uplift", "boost"), "max"),
    **dict.fromkeys(("degradation", "deterioration"), "min"),
}


def direction(metric: str) -> Mode | None:
    """Whether a metric is to be maximized or minimized, by its name; None where the name does not tell.

    Args:
        metric: the name as a tracker or trainer writes it (`val_loss`, `metrics/mAP50-95(B)`, `eval_rougeLsum`, `prec@1`).
    """
    if "\N{UPWARDS ARROW}" in metric or "\N{DOWNWARDS ARROW}" in metric:
        return "max" if "\N{UPWARDS ARROW}" in metric else "min"
    rates = re.sub(r"/(s|sec|second|it|iter|step|dim|token)s?$", r" per \1", metric)
    # the last part of a path is the metric, unless it is the data (`loss/val`)
    for part in reversed(rates.split("/")):
        if said := _said(words_of(part)):
            return said if said != "unknown" else None
    return None


def loss_beside(metric: str, names: Iterable[str]) -> str:
    """The first of these names that is a loss by which models can be ranked beside a metric ("": none, or it is one itself).

    One of other data than the metric's, such as `test_loss` beside `error`, is none.

    Args:
        metric: the metric to choose by.
        names: of the metrics that have values per example.
    """
    others = [] if is_loss(metric) else [name for name in names if name != metric and is_loss(name)]
    return next((name for name in others if _reported(name) <= _reported(metric)), "")


def is_loss(metric: str) -> bool:
    """Whether a name has the whole word loss, nll, cross_entropy or ce, and is to be small."""
    return _RANKING.search(_parts(metric)) is not None and direction(metric) == "min"


def _reported(metric: str) -> set[str]:
    """The data that a name says, if it is data that models are not chosen on."""
    return {word.removesuffix("ing") for word in _parts(metric).split()} & _NOT_CHOSEN_ON


def _parts(metric: str) -> str:
    """A name in lower case with spaces between its words, known terms too."""
    return " ".join(_CAMEL.findall(metric.replace("_", " "))).lower()


def words_of(metric: str) -> list[str]:
    """The words of a name in lower case, numbers among them; a known term of several words is one."""
    found: list[str] = []
    for chunk in re.findall(r"[^\W_]+", metric.replace("@", " at ")):
        whole = _look(chunk.lower(), _TIERS[0])
        camel = _CAMEL.findall(chunk.replace("IoU", "Iou"))
        found += [chunk] if whole else camel
    return _PHRASE.sub(lambda term: term[1].replace(" ", ""), " ".join(found).lower()).split()


def _said(words: Sequence[str]) -> _Said:
    """What the words of one part say."""
    for i, word in enumerate(words):
        if word in _PREPOSITIONS and 0 < i < len(words) - 1:
            return _with_condition(words[:i], word, words[i + 1 :])
    if words[-1:] == ["per"]:
        return "min"  # phoneme error rate
    changes = [i for i, word in enumerate(words) if word in _CHANGES]
    if changes and not _decided(words[changes[-1] + 1 :]):
        return _changed(words, changes[-1])
    if words[:1] == ["1"] and len(words) > 1 and _look(words[1], _TIERS[0]) == "max":
        return "min"  # 1 - accuracy
    return _decided(words)


def _with_condition(before: Sequence[str], preposition: str, after: Sequence[str]) -> _Said:
    """What `before` says, or, if that is nothing, what stands after the preposition."""
    said = _said(before)
    if preposition == "per" and after[0] in _UNITS:
        return "min" if said == "min" else "max"
    if preposition == "per" and before[-1] in _UNITS | _TIMES:
        return "min"
    if not said and preposition == "at" and before[-1] in _RANKS:
        return "max"
    return said or _said(after)


def _changed(words: Sequence[str], i: int) -> _Said:
    """What a change says, such as a drop of what stands before it."""
    change, of = _CHANGES[words[i]], _decided(words[:i])
    if words[i - 1 : i] and words[i - 1] in _NONE:
        return "unknown"
    if change == "opposite":
        return _OPPOSITE[of]
    return of if change == "same" else change


def _decided(words: Sequence[str]) -> _Said:
    """What the last word says that says something, in its context."""
    for tier in _TIERS:
        for i in reversed(range(len(words))):
            said = _of_time(words, i) if tier is _TIERS[0] else ""
            if said := said or _look(words[i], tier):
                return _in_context(words, i, said)
    return "max" if re.search(r"\btop ?(\d+|k)\b", " ".join(words)) else ""


def _of_time(words: Sequence[str], i: int) -> _Said:
    """A time that something takes is to be short; time that passes has no better side."""
    if words[i] not in _TIMES:
        return ""
    return "unknown" if _PASSING & set(words) or not set(words[:i]) - _PASSING.union(_PARTS) else "min"


def _in_context(words: Sequence[str], i: int, said: _Said) -> _Said:
    """What word `i` says after what stands before it."""
    before = list(words[:i])
    losses = not _LOSS.isdisjoint(words)
    if (before and before[-1] in _NONE) or (losses and {"win", "wins", "profit"} & set(words)):
        return "unknown"
    minus = max((k for k, word in enumerate(before) if word in _MINUS), default=None)
    if minus is not None and said in {"max", "min"}:
        between = set(before[minus + 1 :])
        if words[i] in _LOSS:
            return said if between else "unknown"  # `negative_sampling_loss` is one, `neg_loss` may be
        if before[minus] != "minus" and (words[i] in _OF_A_CLASS or between - _STATISTICS):
            return "unknown"
        return _OPPOSITE[said]
    return "min" if said == "max" and losses else said


def _look(word: str, tier: _Tier) -> _Said:
    """What a word says, with a number at its end, in the plural, glued to a part of the data, or with a negating prefix."""
    bare = word.rstrip("0123456789")
    singular = re.sub(r"(?<=ss|ch)es$|(?<=[^s])s$", "", re.sub(r"ies$", "y", bare))
    for form in (word, bare, singular):
        if form in tier:
            return tier[form]
    if (glued := _GLUED.fullmatch(singular)) and glued[1] in tier:
        return tier[glued[1]]
    if (negated := _NEGATED.fullmatch(singular)) and negated[1] in tier:
        return _OPPOSITE[tier[negated[1]]]
    return ""
