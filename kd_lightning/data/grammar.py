"""A small made-up language of film reviews, in which the sense of a sentence is known exactly."""

from __future__ import annotations

from random import Random


def _words(line: str) -> list[str]:
    return line.split()


GRADED = {
    3: _words("superb brilliant magnificent stunning masterful flawless"),
    2: _words("good great clever funny moving charming"),
    1: _words("decent pleasant fine nice watchable likeable"),
    -1: _words("slow bland flat clumsy uneven thin"),
    -2: _words("bad poor boring tedious shallow lazy"),
    -3: _words("awful dreadful horrible atrocious unbearable disastrous"),
}
ADJECTIVES = {word: grade for grade, words in GRADED.items() for word in words}
DEGREES = dict.fromkeys(_words("very extremely truly remarkably"), 2.0)
DEGREES |= dict.fromkeys(_words("slightly somewhat rather mildly"), 0.5)
NEGATIONS = _words("not never hardly")
FILM = _words("film movie plot script acting story direction cast ending dialogue")
OTHER = _words("popcorn seat queue weather coffee parking cinema ticket crowd trailer")
FILLERS = _words("frankly perhaps honestly tonight again somehow indeed apparently yesterday overall")
GLUE = _words("the was and but although or while , .")
WORDS = sorted({*ADJECTIVES, *DEGREES, *NEGATIONS, *FILM, *OTHER, *FILLERS, *GLUE})


def review(random: Random) -> tuple[str, float]:
    """Return a sentence and what it says about the film: above zero is praise, and it is never close to zero.

    A clause is `the NOUN was [not] [very] ADJECTIVE [or ADJECTIVE]`; its value is the sum of its adjectives' grades
    (-3 … 3), doubled or halved by a word of degree, and turned round and halved by a negation, which reaches to the end
    of its clause. Clauses about other things than the film say nothing. What follows `but` counts double, what follows
    `although` counts half. Fillers mean nothing.

    Example:
        >>> review(Random(0)) == review(Random(0))
        True

    """
    while True:
        words, value = _sentence(random)
        if abs(value) >= 0.5:
            return " ".join([*words, "."]), value


def _sentence(random: Random) -> tuple[list[str], float]:
    words, value = _clause(random, FILM)
    if random.random() < 0.5:
        second, other = _clause(random, FILM)
        link, weight = random.choice([("and", 1.0), ("but", 2.0), ("although", 0.5)])
        words, value = [*words, link, *second], value + weight * other
    if random.random() < 0.5:
        aside, _ = _clause(random, OTHER)
        words = [*aside, random.choice([",", "and"]), *words] if random.random() < 0.5 else [*words, "while", *aside]
    return words, value


def _clause(random: Random, nouns: list[str]) -> tuple[list[str], float]:
    words, value = _adjectives(random)
    if random.random() < 0.35:
        words, value = [random.choice(NEGATIONS), *words], -0.5 * value
    if random.random() < 0.2:
        words = [random.choice(FILLERS), *words]
    return ["the", random.choice(nouns), "was", *words], value


def _adjectives(random: Random) -> tuple[list[str], float]:
    words = [random.choice(list(ADJECTIVES))]
    value = float(ADJECTIVES[words[0]])
    if random.random() < 0.4:
        degree = random.choice(list(DEGREES))
        words, value = [degree, *words], DEGREES[degree] * value
    if random.random() < 0.2:
        another = random.choice(list(ADJECTIVES))
        words, value = [*words, "or", another], value + ADJECTIVES[another]
    return words, value
