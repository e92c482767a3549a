"""A search for the fastest train step that fits: rematerialisation and microbatches are tried."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from gen1_jax.aot.target import Report, Target, Work, measure, refusal
from gen1_jax.errors import UserError


def search(
    make_work: Callable[[str, int], Work],
    target: Target,
    *,
    remats: Sequence[str],
    examples_per_chip: int,
) -> Iterator[Report]:
    """Yields a report of each program tried, until no other can be faster.

    More microbatches than memory asks for can still be faster: what they compute with then stays
    in the chip's fast memory. They cannot be faster once the step waits for arithmetic; and if it
    also computes nothing twice, no other rematerialisation can be either.

    Args:
      make_work: (remat, microbatches) → the program.
      target: the chips.
      remats: names in `gen1_jax.models.remat.REMAT`, the one that recomputes least first.
      examples_per_chip: of a batch; each of its divisors is a number of microbatches.
    """
    divisors = [n for n in range(1, examples_per_chip + 1) if examples_per_chip % n == 0]
    for remat in remats:
        for microbatches in divisors:
            work = make_work(remat, microbatches)
            try:
                report = measure(work, target)
            except UserError as error:
                report = refusal(work, target, str(error))
            yield report
            if report.fits and _waits_for_arithmetic(report):
                if remat == "none":
                    return
                break


def best_of(reports: Iterable[Report]) -> Report | None:
    """Returns the report with the highest bound on MFU, or None where there is no bound."""
    bounded = (report for report in reports if report.fits and report.mfu_bound)
    return max(bounded, key=lambda report: report.mfu_bound, default=None)


def _waits_for_arithmetic(report: Report) -> bool:
    """Returns whether arithmetic takes longest, or nothing is known of the chip."""
    moved = (report.memory_seconds or 0, report.interconnect_seconds or 0)
    return (report.arithmetic_seconds or 0) >= max(moved)
