"""Working through the table: what comes first, what is done already, how long it will still take."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from statistics import mean

from benchmarks.quality.cells import Cell, Places, code_state, read_cell, run_cell
from benchmarks.quality.recipes import Recipe, load_recipe
from benchmarks.quality.rows import Row
from benchmarks.quality.tables import write_tables
from patch2tissue.atomic import write_text

Say = Callable[[str], None]


def planned_cells(
    sets: Sequence[str],
    encoders: Sequence[str] | None,
    rows: Sequence[Row],
    seeds: Iterable[int],
    *,
    quick: bool = False,
) -> list[Cell]:
    """Cells in the order of work: headline encoders, then the others; within them seed by seed, row by row.

    Args:
        sets: names of sets.
        encoders: names of encoders; None: all, or with `quick` that of the headline.
        rows: rows in the order of work.
        seeds: seeds, in order.
        quick: tiny sizes.
    """
    recipes: list[Recipe] = []
    for name in sets:
        headline = load_recipe(name, "random", quick=quick).headline
        chosen = encoders if encoders is not None else [headline] if quick else ["pretrained", "random"]
        recipes += [load_recipe(name, encoder, quick=quick) for encoder in chosen]
    return [
        Cell(recipe, row, seed)
        for main in (True, False)
        for seed in seeds
        for row in rows
        for recipe in recipes
        if (recipe.encoder == recipe.headline) == main and (row.encoders is None or recipe.encoder in row.encoders)
    ]


class Clock:
    """Estimates how long cells take, from those that were made before.

    Args:
        cells: all cells of the call.
        places: where their results are.
    """

    def __init__(self, cells: Sequence[Cell], places: Places) -> None:
        results = [(cell, read_cell(cell.file(places))) for cell in cells]
        self.known = [(cell, result["seconds_of_this_call"]) for cell, result in results if result is not None]

    def seconds(self, cell: Cell) -> float | None:
        """By the same cell of another seed, else by its set and kind, else by its kind, else by all."""

        def close(other: Cell, level: int) -> bool:
            same_set = (other.recipe.set, other.recipe.encoder) == (cell.recipe.set, cell.recipe.encoder)
            same_kind = (other.row.kind == "stage1") == (cell.row.kind == "stage1")
            return (same_set and other.row == cell.row, same_set and same_kind, same_kind, True)[level]

        for level in range(4):
            found = [spent for other, spent in self.known if close(other, level)]
            if found:
                return float(mean(found))
        return None

    def left(self, todo: Sequence[Cell]) -> str:
        """How long these cells will take, in words."""
        each = [self.seconds(cell) for cell in todo]
        if any(value is None for value in each):
            return "time left not known yet"
        return f"about {duration(sum(value for value in each if value is not None))} left"


def duration(seconds: float) -> str:
    """Seconds as hours and minutes.

    >>> duration(6000)
    '1 h 40 min'
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def run_cells(
    cells: Sequence[Cell], places: Places, *, threads: int | None = None, quick: bool = False, say: Say = print
) -> list[Cell]:
    """Make every cell that is not there, writing the tables after each one.

    Args:
        cells: in the order of work.
        places: where results go.
        threads: CPU threads, None: all cores.
        quick: tiny sizes.
        say: gets one line per cell.

    Returns:
        Cells that failed; why is in `failures/` of the work folder, and does not stop the others.
    """
    code = code_state()
    todo = []
    failed = []
    for cell in cells:
        try:
            current = cell.state(places) == "done"
        except Exception as error:  # a recipe that is wrong for one row must not stop the others
            failed.append(_note_failure(cell, places, error, say))
            continue
        if not current:
            todo.append(cell)
    say(f"{len(cells)} cells, {len(cells) - len(todo) - len(failed)} of them there already")
    for number, cell in enumerate(todo):
        place = cells.index(cell) + 1
        say(f"cell {place} of {len(cells)}, {Clock(cells, places).left(todo[number:])}: {cell.name}")
        begin = time.perf_counter()
        try:
            run_cell(cell, places, threads=threads, code=code)
        except Exception as error:  # whatever went wrong in one cell, the others can be made
            failed.append(_note_failure(cell, places, error, say))
            continue
        result = read_cell(cell.file(places))
        assert result is not None
        say(f"  MIoU {100 * result['scores']['miou']:.1f} after {duration(time.perf_counter() - begin)}")
        write_tables(places, quick=quick)
    write_tables(places, quick=quick)
    if failed:
        say(f"{len(failed)} cells failed: {', '.join(cell.name for cell in failed)}; see {places.work / 'failures'}")
    return failed


def _note_failure(cell: Cell, places: Places, error: Exception, say: Say) -> Cell:
    text = "".join(traceback.format_exception(error))
    write_text(places.work / "failures" / f"{cell.name.replace('/', '-')}.txt", text)
    say(f"  {cell.name} FAILED: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    return cell
