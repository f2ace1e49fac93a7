"""Worked problems whose steps are an algorithm's: division, factors, bases, equations, traces.

Every number written is computed. Equations are spelled ``a op b = c``, so that a reader (and our
tests) can check them one by one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["PROCEDURES", "Problem"]


class Problem(NamedTuple):
    """A question, the steps to its answer, and the answer."""

    question: str
    steps: list[str]
    answer: str


def _greatest_divisor(rng: random.Random) -> Problem:
    g = rng.randint(2, 24)
    a, b = g * rng.randint(11, 48), g * rng.randint(5, 30)
    a, b = max(a, b) + g, min(a, b)
    first, second = a, b
    steps = ["Use Euclid's algorithm: replace the pair by the smaller number and the remainder."]
    while b:
        q, r = divmod(a, b)
        steps.append(f"{a} = {q} * {b} + {r}, so go on with {b} and {r}.")
        a, b = b, r
    steps.append(f"The remainder is 0, so the last divisor, {a}, is the greatest common divisor.")
    multiple = first * second // a
    steps.append(f"The least common multiple follows: {first} * {second} / {a} = {multiple}.")
    return Problem(
        f"Find the greatest common divisor and the least common multiple of {first} and {second}.",
        steps,
        f"greatest common divisor {a}, least common multiple {multiple}",
    )


def _prime_factors(rng: random.Random) -> Problem:
    n = math.prod(rng.choices((2, 2, 3, 3, 5, 7, 11, 13, 17), k=rng.randint(4, 6)))
    rest, divisor, factors = n, 2, list[int]()
    steps = [f"Divide {n} by small primes for as long as it works."]
    while rest > 1:
        if rest % divisor:
            divisor += 1
            continue
        steps.append(f"{rest} / {divisor} = {rest // divisor}.")
        factors.append(divisor)
        rest //= divisor
    count = math.prod(factors.count(p) + 1 for p in set(factors))
    steps.append(f"Check: {' * '.join(map(str, factors))} = {n}.")
    parts = " * ".join(f"({factors.count(p)} + 1)" for p in sorted(set(factors)))
    steps.append(
        f"A divisor takes each prime between zero times and as often as it occurs, "
        f"which gives {parts} = {count} divisors."
    )
    return Problem(
        f"Write {n} as a product of primes. How many divisors does it have?",
        steps,
        f"{n} = {' * '.join(map(str, factors))}, {count} divisors",
    )


def _to_base(rng: random.Random) -> Problem:
    n, base = rng.randint(90, 1999), rng.choice((2, 3, 5, 7, 8))
    rest, digits = n, list[int]()
    steps = [f"Divide by {base} again and again and keep the remainders."]
    while rest:
        q, r = divmod(rest, base)
        steps.append(f"{rest} = {q} * {base} + {r}: write down {r}.")
        digits.append(r)
        rest = q
    word = "".join(map(str, reversed(digits)))
    steps.append(f"Read from the last remainder to the first: {word}.")
    sum_ = " + ".join(f"{d} * {base**i}" for i, d in reversed(list(enumerate(digits))) if d)
    steps.append(f"Check: {sum_} = {n}.")
    return Problem(f"Write the number {n} in base {base}.", steps, word)


def _long_multiplication(rng: random.Random) -> Problem:
    a, b = rng.randint(103, 987), rng.randint(103, 987)
    parts = [int(d) * 10**i for i, d in enumerate(reversed(str(b))) if d != "0"][::-1]
    steps = [f"Split {b} into {' + '.join(map(str, parts))} and multiply part by part."]
    steps += [f"{a} * {part} = {a * part}." for part in parts]
    steps.append(f"Add up: {' + '.join(str(a * part) for part in parts)} = {a * b}.")
    rough = round(a, -2) * round(b, -2)
    steps.append(f"The size is plausible: {round(a, -2)} * {round(b, -2)} = {rough}.")
    return Problem(f"Compute {a} * {b} without a calculator.", steps, str(a * b))


def _long_division(rng: random.Random) -> Problem:
    divisor, n = rng.randint(7, 39), rng.randint(10_000, 99_999)
    steps, rest, quotient = [f"Bring down the digits of {n} one by one."], 0, ""
    for digit in str(n):
        value = rest * 10 + int(digit)
        q = value // divisor
        if quotient or q:
            steps.append(
                f"{value} holds {divisor} {q} times: {value} - {q} * {divisor} = {value % divisor}."
            )
            quotient += str(q)
        rest = value % divisor
    steps.append(f"So {n} = {quotient} * {divisor} + {rest}.")
    return Problem(
        f"Divide {n} by {divisor} with remainder.", steps, f"{quotient} remainder {rest}"
    )


def _linear_system(rng: random.Random) -> Problem:
    x, y = rng.randint(-7, 12), rng.randint(-6, 11)
    a, b, c = rng.randint(2, 6), rng.randint(2, 7), rng.randint(1, 5)
    d = rng.choice([k for k in range(1, 9) if a * k != b * c])
    e, f = a * x + b * y, c * x + d * y
    det = a * d - b * c
    steps = [
        f"Multiply the first equation by {d} and the second by {b}, so that y has the same factor.",
        f"{d} * {e} = {d * e} and {b} * {f} = {b * f}.",
        f"{a * d}x + {b * d}y = {d * e} and {b * c}x + {b * d}y = {b * f}.",
        (
            f"Subtract: ({a * d} - {b * c})x = {d * e} - {_signed(b * f)}, that is "
            f"{det}x = {d * e - b * f}, so x = {x}."
        ),
        f"Put it into the first: {b}y = {e} - {a} * {_signed(x)} = {e - a * x}, so y = {y}.",
        f"Check with the second: {c} * {_signed(x)} + {d} * {_signed(y)} = {f}.",
    ]
    return Problem(
        f"Solve the system {a}x + {b}y = {e}, {c}x + {d}y = {f}.", steps, f"x = {x}, y = {y}"
    )


def _signed(n: int) -> str:
    return f"({n})" if n < 0 else str(n)


def _quadratic(rng: random.Random) -> Problem:
    p, q = sorted(rng.sample([k for k in range(-9, 13) if k], 2))
    b, c = -(p + q), p * q
    steps = [
        f"Look for two numbers whose product is {c} and whose sum is {-b}.",
        (
            f"{p} and {q} fit: {_signed(p)} * {_signed(q)} = {c} and "
            f"{_signed(p)} + {_signed(q)} = {p + q}."
        ),
        (
            f"So the left side is (x {'-' if p > 0 else '+'} {abs(p)})(x {'-' if q > 0 else '+'} "
            f"{abs(q)}), and a product is zero where a factor is."
        ),
        (
            f"By the formula, the discriminant is {_signed(b)} * {_signed(b)} - 4 * {_signed(c)} "
            f"= {b * b - 4 * c}, the square of {q - p}, which agrees."
        ),
    ]
    equation = f"x^2 {'-' if b < 0 else '+'} {abs(b)}x {'-' if c < 0 else '+'} {abs(c)} = 0"
    return Problem(f"Solve {equation}.", steps, f"x = {p} or x = {q}")


def _fractions(rng: random.Random) -> Problem:
    b, d = rng.sample(range(3, 17), 2)
    a, c = rng.randint(1, b - 1), rng.randint(1, d - 1)
    common = math.lcm(b, d)
    top = a * (common // b) + c * (common // d)
    g = math.gcd(top, common)
    steps = [
        f"The least common denominator of {b} and {d} is {common}.",
        f"{a}/{b} = {a * (common // b)}/{common} and {c}/{d} = {c * (common // d)}/{common}.",
        f"The numerators add to {a * (common // b)} + {c * (common // d)} = {top}.",
    ]
    if g > 1:
        steps.append(f"Both can be divided by {g}: {top} / {g} = {top // g}, "
                     f"{common} / {g} = {common // g}.")  # fmt: skip
    else:
        steps.append(f"{top} and {common} have no common factor, so nothing can be cancelled.")
    answer = f"{top // g}/{common // g}" if common != g else str(top // g)
    return Problem(f"Add the fractions {a}/{b} and {c}/{d} and reduce the result.", steps, answer)


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _weekday(rng: random.Random) -> Problem:
    start, days = rng.randrange(7), rng.randint(20, 400)
    rest, end = days % 7, (start + days) % 7
    steps = [
        "After every 7 days the same weekday comes again, so only the remainder counts.",
        f"{days // 7} * 7 = {days // 7 * 7} and {days} - {days // 7 * 7} = {rest}.",
        f"{rest} days after {_DAYS[start]}: "
        + (" -> ".join(_DAYS[(start + i) % 7] for i in range(rest + 1)) + "."),
    ]
    return Problem(
        f"Today is {_DAYS[start]}. Which day of the week is it in {days} days?", steps, _DAYS[end]
    )


def _loop_trace(rng: random.Random) -> Problem:
    a, b, m, n = rng.randint(2, 7), rng.randint(1, 9), rng.randint(11, 29), rng.randint(4, 7)
    x = start = rng.randint(1, 9)
    steps = ["Follow the variable through the loop."]
    for i in range(n):
        value = a * x + b
        steps.append(f"i = {i}: {a} * {x} + {b} = {value}, and {value} mod {m} is {value % m}.")
        x = value % m
    code = f"x = {start}\nfor i in range({n}):\n    x = ({a} * x + {b}) % {m}\nprint(x)"
    return Problem(f"What does this program print?\n{code}", steps, str(x))


def _drawing_balls(rng: random.Random) -> Problem:
    red, blue = rng.randint(3, 12), rng.randint(3, 14)
    n = red + blue
    top, bottom = red * (red - 1) + blue * (blue - 1), n * (n - 1)
    g = math.gcd(top, bottom)
    steps = [
        f"There are {red} + {blue} = {n} balls, and {n} * {n - 1} = {bottom} ordered draws of two.",
        f"Both red: {red} * {red - 1} = {red * (red - 1)} of them.",
        f"Both blue: {blue} * {blue - 1} = {blue * (blue - 1)}.",
        (
            f"Same colour: {red * (red - 1)} + {blue * (blue - 1)} = {top}, "
            f"so the probability is {top}/{bottom}."
        ),
        f"Reduced by {g} it is {top // g}/{bottom // g}.",
    ]
    question = (
        f"A bag holds {red} red and {blue} blue balls. Two are drawn without putting the first "
        "back. What is the probability that both have the same colour?"
    )
    return Problem(question, steps, f"{top // g}/{bottom // g}")


_NAMES = ("Ada", "Boris", "Celia", "Dov", "Elif", "Franz", "Gita", "Henk", "Ilse", "Jamal")


def _ordering(rng: random.Random) -> Problem:
    order = rng.sample(_NAMES, 5)
    clues = [f"{a} finished directly before {b}." for a, b in itertools.pairwise(order)]
    first_clue = f"{order[0]} was not beaten by anybody."
    shown = [clues[0], first_clue, clues[2], clues[3], f"{order[2]} came third."]
    rng.shuffle(shown)
    steps = [
        f"Nobody beat {order[0]}, so {order[0]} is first; directly after comes {order[1]}.",
        f"{order[2]} is third as stated, and {order[3]} follows directly: fourth.",
        f"{order[4]} came directly after {order[3]}, which is the fifth place and the last one.",
        "Every clue has been used and each place is taken once.",
    ]
    question = f"Five people ran a race. {' '.join(shown)} In which order did they finish?"
    return Problem(question, steps, ", ".join(order))


def _sorting_trace(rng: random.Random) -> Problem:
    values = rng.sample(range(2, 99), rng.randint(5, 6))
    question = f"Sort {values} by insertion and show the list after each step. How many shifts?"
    steps, shifts = list[str](), 0
    for i in range(1, len(values)):
        value, j = values[i], i
        while j and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value
        shifts += i - j
        moved = f"moves {i - j} to the left" if i > j else "stays"
        steps.append(f"Step {i}: {value} {moved}: {values}.")
    return Problem(question, steps, f"{values} after {shifts} shifts")


def _matrix_product(rng: random.Random) -> Problem:
    a, b, c, d, e, f, g, h = (rng.randint(-4, 9) for _ in range(8))
    rows = [
        ("first row, first column", (a, e), (b, g)),
        ("first row, second column", (a, f), (b, h)),
        ("second row, first column", (c, e), (d, g)),
        ("second row, second column", (c, f), (d, h)),
    ]
    steps, entries = ["Each entry is a row of the first times a column of the second."], []
    for place, (p, q), (r, s) in rows:
        entries.append(p * q + r * s)
        steps.append(
            f"{place.capitalize()}: {_signed(p)} * {_signed(q)} + {_signed(r)} * {_signed(s)} "
            f"= {entries[-1]}."
        )
    steps.append(
        f"As a check, the determinants multiply: {_signed(a * d - b * c)} * "
        f"{_signed(e * h - f * g)} = {(a * d - b * c) * (e * h - f * g)}."
    )
    w, x, y, z = entries
    return Problem(
        f"Multiply the matrices [[{a}, {b}], [{c}, {d}]] and [[{e}, {f}], [{g}, {h}]].",
        steps,
        f"[[{w}, {x}], [{y}, {z}]]",
    )


def _fewest_coins(rng: random.Random) -> Problem:
    coins = sorted({1, *rng.sample(range(3, 14), 3)})
    amount = rng.randint(17, 34)
    best: list[tuple[int, int]] = [(0, 0)]
    for n in range(1, amount + 1):
        best.append(min((best[n - c][0] + 1, c) for c in coins if c <= n))
    rest, used = amount, list[int]()
    while rest:
        used.append(best[rest][1])
        rest -= used[-1]
    greedy, left = list[int](), amount
    for coin in reversed(coins):
        greedy += [coin] * (left // coin)
        left %= coin
    steps = [
        (
            f"Taking the largest coin first uses {len(greedy)}: "
            f"{' + '.join(map(str, greedy))} = {amount}. That need not be the best."
        ),
        (
            "Let c(n) be the fewest coins for n: c(0) is 0, and c(n) is one more than the smallest "
            "c(n - coin)."
        ),
        "The table: " + ", ".join(f"c({n})={best[n][0]}" for n in range(1, amount + 1)) + ".",
        f"Walking back from {amount}: {' + '.join(map(str, used))} = {amount}.",
    ]
    return Problem(
        f"What is the smallest number of coins that pays {amount} with coins of {coins}?",
        steps,
        f"{len(used)} coins: {', '.join(map(str, used))}",
    )


def _heads_and_legs(rng: random.Random) -> Problem:
    hens, rabbits = rng.randint(4, 30), rng.randint(3, 26)
    heads, legs = hens + rabbits, 2 * hens + 4 * rabbits
    steps = [
        f"If all were hens there would be {heads} * 2 = {heads * 2} legs.",
        f"There are {legs} - {heads * 2} = {legs - heads * 2} more.",
        f"Each rabbit adds two: {legs - heads * 2} / 2 = {rabbits} rabbits.",
        f"The hens are the rest: {heads} - {rabbits} = {hens}.",
        f"Check: {hens} * 2 + {rabbits} * 4 = {legs}.",
    ]
    question = (
        f"In a yard there are hens and rabbits, {heads} heads and {legs} legs. How many each?"
    )
    return Problem(question, steps, f"{hens} hens and {rabbits} rabbits")


PROCEDURES: tuple[Callable[[random.Random], Problem], ...] = (
    *(_greatest_divisor, _prime_factors, _to_base, _long_multiplication, _long_division),
    *(_linear_system, _quadratic, _fractions, _weekday, _loop_trace, _drawing_balls),
    *(_ordering, _sorting_trace, _matrix_product, _fewest_coins, _heads_and_legs),
)
