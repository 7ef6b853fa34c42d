"""Scores of answers compared as text, with the normalisations of SQuAD and VQA."""

import re
import string
from collections import Counter
from collections.abc import Sequence

SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b")
SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
VQA_PERIOD = re.compile(r"\.(?!\d)")
VQA_COMMA = re.compile(r"\d,\d")
VQA_ARTICLES = ("a", "an", "the")
VQA_NUMBERS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
# an answer that lacks one apostrophe of these forms is mapped to the full form; the list and its gaps are the official
# evaluation's
VQA_FULL_FORMS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
VQA_CONTRACTIONS = {
    whole[:place] + whole[place + 1 :]: whole
    for whole in VQA_FULL_FORMS
    for place, sign in enumerate(whole)
    if sign == "'"
} | {"somebody'd": "somebodyd"}


def normalize_squad_answer(text: str) -> str:
    """Normalises an answer as SQuAD's evaluation does: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(SQUAD_ARTICLES.sub(" ", text.lower().translate(SQUAD_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if any reference equals the prediction after `normalize_squad_answer`, else 0.

    Source: https://arxiv.org/abs/1606.05250.
    """
    return float(normalize_squad_answer(prediction) in map(normalize_squad_answer, references))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Returns the best F1, 0..1, over the references, of the words of prediction and reference after
    `normalize_squad_answer`.

    If either has no word left, it is 1 if both have none (as SQuAD 2.0 counts "no answer"), else 0.
    """
    return max(
        _compute_f1(normalize_squad_answer(prediction).split(), normalize_squad_answer(reference).split())
        for reference in references
    )


def normalize_vqa_answer(text: str) -> str:
    """Normalises an answer as the VQA evaluation does: lower case, number words as digits, no articles, no punctuation,
    contractions with their apostrophe.

    The oddities of that evaluation are kept: a punctuation mark inside a word becomes a space, unless the answer has
    the same mark next to a space or a comma between digits; "none" is 0.
    """
    text = " ".join(text.split())
    joined = VQA_COMMA.search(text)
    cleaned = text
    for sign in VQA_PUNCTUATION:
        next_to_space = f"{sign} " in text or f" {sign}" in text
        cleaned = cleaned.replace(sign, "" if joined or next_to_space else " ")
    words = (VQA_NUMBERS.get(word, word) for word in VQA_PERIOD.sub("", cleaned).lower().split())
    return " ".join(VQA_CONTRACTIONS.get(word, word) for word in words if word not in VQA_ARTICLES)


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Returns min(matches / 3, 1), 0..1, averaged over leaving out each of ten (or more) human answers in turn.

    Fewer than ten references are used all at once, and three matches (one of one, two of two) score 1: with one
    reference it is equality after `normalize_vqa_answer`. Prediction and references are always fully normalised; the
    official scripts leave the references as they are if all humans agree, and the older ones keep their articles and
    number words.

    Source: Antol et al. 2015, https://arxiv.org/abs/1505.00468; https://visualqa.org/evaluation.html.
    """
    count = len(references)
    matches = list(map(normalize_vqa_answer, references)).count(normalize_vqa_answer(prediction))
    if count < 10:
        return min(matches / min(count, 3), 1.0)
    with_one_less, with_all = min((matches - 1) / 3, 1.0), min(matches / 3, 1.0)
    return (matches * with_one_less + (count - matches) * with_all) / count


def _compute_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = (Counter(prediction) & Counter(reference)).total()
    return 2 * common / (len(prediction) + len(reference))
