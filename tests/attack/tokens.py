"""
Try bad tokens of every kind, and mutated good ones, on the real authenticator.

Each kind of L{tests.attack.token_kinds} has its verdict written out, and is
tried both on the authenticator itself and in a whole session, for HS256, RS256
and EdDSA. Then good tokens are changed at random.

A changed token may only be accepted if it is the original in effect: its header
and its payload are the original's, letter by letter, and its signature is the
same bytes, written in another way. Then it must speak for the same principal.
That is decided here, without the library that verifies.
"""

import base64
import binascii
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from attrs import define

from creditsync.auth import TokenAuthenticator
from creditsync.errors import Unauthorized
from creditsync.records import Principal
from creditsync.revocations import Revocations
from tests.attack import command
from tests.attack.stack import Stack, problems
from tests.attack.token_kinds import (
    ACCEPTED,
    FORBIDDEN,
    NOW,
    REVOKED,
    UNAUTHORIZED,
    Keys,
    Signer,
    kinds,
)
from tests.figures import Figures
from tests.planted.bugs import plant

_PER_TASK = 10_000
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_STRANGE = ["=", "==", ".", " ", "\n", "\t", "+", "/", "!", "\0", "é", "\u200b", '"']


def authenticator(signer: Signer, folder: Path) -> TokenAuthenticator:
    """
    The authenticator of a server for this signer's tokens, with its
    revocations.
    """
    revoked = folder / "revoked"
    revoked.write_text(f"# revoked\n{REVOKED}\n")
    return TokenAuthenticator(
        signer.public,
        signer.algorithm,
        now=lambda: NOW,
        revocations=Revocations(revoked),
    )


# Of every kind.


def judgeKinds(keys: Keys, algorithm: str) -> Iterator[str]:
    """
    Try every kind twice: a token that was refused must not be cached as valid.

    @return: The faults.
    """
    with TemporaryDirectory() as folder, problems() as logged:
        judge = authenticator(keys.ours[algorithm], Path(folder))
        for what, token, expected in kinds(keys, algorithm):
            allowed = {ACCEPTED} if expected == FORBIDDEN else {expected}
            for verdict in (_verdict(judge, token), _verdict(judge, token)):
                if verdict not in allowed:
                    yield f"{algorithm}, {what}: {verdict}"
            answer = _answer(judge, token)
            if answer != expected:
                yield f"{algorithm}, {what}, in a session: {answer}"
        yield from logged


def judgeRevocation(keys: Keys, algorithm: str) -> Iterator[str]:
    """
    Revoke a token that is in use.

    @return: The faults.
    """
    with TemporaryDirectory() as folder:
        judge = authenticator(keys.ours[algorithm], Path(folder))
        token = keys.ours[algorithm].claiming(jti="in-use")
        principal = judge.authenticate(token)
        with (Path(folder) / "revoked").open("a") as revoked:
            revoked.write("in-use\n")
        if _verdict(judge, token) == ACCEPTED:
            yield f"{algorithm}: a token that was revoked in use is accepted"
        if judge.isCurrent(principal):
            yield f"{algorithm}: a token that was revoked in use still hears events"


def _verdict(judge: TokenAuthenticator, token: str) -> str:
    try:
        judge.authenticate(token)
    except Unauthorized:
        return UNAUTHORIZED
    except Exception as e:
        return f"raises {e!r}"
    return ACCEPTED


def _answer(judge: TokenAuthenticator, token: str) -> str:
    """
    The reply to a session that requests a credit with this token.
    """
    stack = Stack(judge)
    connection = stack.connect()
    request = {
        "command": "CreditIn",
        "extID": "e",
        "__token": token,
        "data": {"login": 1001, "amount": 1, "comment": "x"},
    }
    line = json.dumps(request, ensure_ascii=not _isWide(token)).encode()
    connection.say(line + b"\n")
    stack.book()
    said = connection.hear().splitlines()
    if not said:
        return "nothing"
    # If the token is accepted the event comes first.
    reply = json.loads(said[-1])
    if len(token) > 8 and token in said[-1].decode():
        return "an answer with the token in it"
    if reply.get("extID") != "e" and reply.get("error") not in _UNREADABLE:
        return "an answer under another extID"
    isRefused = len(said) == 1 and not stack.service.waiters
    error = str(reply.get("error", ACCEPTED))
    if error in _UNREADABLE:
        return UNAUTHORIZED
    return error if isRefused or error == ACCEPTED else f"{error} and a booking"


# A line that is too long, or whose token is not Unicode, is refused before.
_UNREADABLE = ("LINE_TOO_LONG", "INVALID_JSON")


def _isWide(token: str) -> bool:
    return not token.isascii() and all(ord(c) < 0xD800 for c in token)


# Mutated.


@define
class Task:
    """
    A number of mutations of the valid tokens of one signer.
    """

    signer: Signer
    count: int
    seed: int


def mutated(task: Task) -> tuple[Counter[str], list[str]]:
    """
    Try mutated tokens.

    @return: How many had which verdict, and the faults.
    """
    random, verdicts, wrong = Random(task.seed), Counter[str](), []
    originals = [
        task.signer.claiming(id=id, role=role, jti=f"m{role}")
        for id, role in ((7, 0), (8, 1), (9, 3))
    ]
    with TemporaryDirectory() as folder:
        judge = authenticator(task.signer, Path(folder))
        # Their principals come from another authenticator, so that none is
        # cached.
        good = {
            token: authenticator(task.signer, Path(folder)).authenticate(token)
            for token in originals
        }
        for _ in range(task.count):
            original, other = random.choice(originals), random.choice(originals)
            token = mutate(random, original, other)
            verdict = judgeMutated(judge, token, good)
            verdicts[verdict] += 1
            if verdict.startswith("WRONG"):
                wrong.append(f"{task.signer.algorithm}: {verdict}: {token!r}")
    return verdicts, wrong


def judgeMutated(
    judge: TokenAuthenticator, token: str, good: dict[str, Principal]
) -> str:
    """
    Check a mutated token.

    @param good: The originals, and their principals.
    """
    original = next((each for each in good if isSame(token, each)), None)
    try:
        principal = judge.authenticate(token)
    except Unauthorized:
        # An equivalent token may also be refused.
        return "refused" if token not in good else "WRONG: a good one refused"
    except Exception as e:
        return f"WRONG: raises {e!r}"
    if original is None:
        return "WRONG: accepted"
    if principal != good[original]:
        return f"WRONG: accepted for {principal}"
    return "accepted, as it is the original in effect"


def isSame(token: str, original: str) -> bool:
    """
    Whether two tokens are equivalent.
    """
    text, _, signature = token.rpartition(".")
    originalText, _, originalSignature = original.rpartition(".")
    return text == originalText and _bytes(signature) == _bytes(originalSignature)


def _bytes(text: str) -> bytes | None:
    """
    The bytes that a lenient reader of base64url finds in a text.
    """
    letters = re.sub(r"[^A-Za-z0-9_-]", "", text.partition("=")[0])
    try:
        return base64.urlsafe_b64decode(letters + "=" * (-len(letters) % 4))
    except binascii.Error:
        return None


def mutate(random: Random, token: str, other: str) -> str:
    """
    Change a token, once or several times.
    """
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        token = _changed(random, token, other)
    return token


def _changed(random: Random, token: str, other: str) -> str:
    at = random.randrange(len(token)) if token else 0
    parts, others = token.split("."), other.split(".")
    which = random.randrange(min(len(parts), len(others)))
    letter = random.choice(_LETTERS)
    change = random.randrange(11)
    if change <= 3:
        return token[:at] + letter + token[at + 1 :]
    if change == 4:
        return token[:at] + random.choice(_STRANGE) + token[at:]
    if change == 5:
        return token[:at] + token[at + random.choice((1, 1, 2, 4)) :]
    if change == 6:
        return token[:at] + token[at : at + 1].swapcase() + token[at + 1 :]
    if change == 7:
        return token[:at]
    if change == 8:
        # A part of another valid token, or no part.
        parts[which] = others[which]
        return ".".join(parts)
    if change == 9:
        return token[:-1] + letter
    parts[which] = _rewritten(random, parts[which])
    return ".".join(parts)


def _rewritten(random: Random, part: str) -> str:
    """
    Change a part below its base64.
    """
    raw = bytearray(_bytes(part) or b"{}")
    if not raw:
        return part
    at = random.randrange(len(raw))
    if random.random() < 0.5:
        raw[at] ^= 1 << random.randrange(8)
    else:
        raw[at:at] = random.choice((b" ", b'"role":3,', b"0", b"}", b","))
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Try all tokens, and print the result.
    """
    made = command.parser(__doc__)
    made.add_argument(
        "--tokens", type=int, default=30_000, help="mutated ones [%(default)s]"
    )
    made.add_argument("--jobs", type=int, default=1, help="processes [%(default)s]")
    made.add_argument("--seed", type=int, help="of this run; random by default")
    options = command.begin(made, arguments)
    seed = Random().getrandbits(32) if options.seed is None else options.seed
    keys, started = Keys(), time.monotonic()
    violations = [
        fault
        for algorithm in keys.ours
        for judged in (judgeKinds, judgeRevocation)
        for fault in judged(keys, algorithm)
    ]
    counted = Counter(verdict for _, _, verdict in kinds(keys, "HS256"))
    figures = Figures(seed=str(seed))
    figures["kinds that are 401, for HS256"] = counted[UNAUTHORIZED]
    figures["kinds that are 403, for HS256"] = counted[FORBIDDEN]
    figures["kinds that are good"] = counted[ACCEPTED]
    figures["kinds that are 401, for RS256"] = sum(
        verdict == UNAUTHORIZED for _, _, verdict in kinds(keys, "RS256")
    )
    verdicts, wrong = _mutateAll(keys, options, seed)
    figures["mutated tokens"] = verdicts.total()
    for verdict, count in sorted(verdicts.items()):
        figures[verdict] = count
    figures["seconds"] = round(time.monotonic() - started, 1)
    violations += wrong
    return command.end(
        options, figures, violations, f"{verdicts.total():,} mutated tokens, none taken"
    )


def _mutateAll(keys: Keys, options: Any, seed: int) -> tuple[Counter[str], list[str]]:
    verdicts, wrong = Counter[str](), list[str]()
    signers = list(keys.ours.values())
    tasks = [
        (index, min(_PER_TASK, options.tokens - at))
        for index, at in enumerate(range(0, options.tokens, _PER_TASK))
    ]
    todo = [
        Task(signers[index % len(signers)], count, seed + index)
        for index, count in tasks
    ]
    for some, faults in _results(todo, options.jobs, options.plant):
        verdicts += some
        wrong += faults
    return verdicts, wrong


def _results(
    todo: list[Task], jobs: int, planted: str | None
) -> Iterator[tuple[Counter[str], list[str]]]:
    """
    Run the tasks, in this many processes.
    """
    if jobs == 1:
        yield from map(mutated, todo)
        return
    with ProcessPoolExecutor(jobs, initializer=plant, initargs=(planted,)) as pool:
        yield from pool.map(mutated, todo)


if __name__ == "__main__":
    sys.exit(main())
