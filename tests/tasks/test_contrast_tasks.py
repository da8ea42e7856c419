"""The texts of a concept, cut into tasks of bounded size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lrt_dist.tasks.contrast import contrast_tasks
from lrt_dist.tasks.sequences import ContrastTexts


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100))
def test_every_text_is_in_one_task_and_no_task_is_large(lengths: list[int], budget: int) -> None:
    ids = tuple((n,) * length for n, length in enumerate(lengths))
    texts = ContrastTexts(ids, tuple(length - 1 for length in lengths), (), ())
    tasks = list(contrast_tasks("c", texts, (0,), budget))
    assert [piece for task in tasks for piece in task.ids] == list(ids)
    assert [p for task in tasks for p in task.positions] == list(texts.positions)
    assert len({task.key for task in tasks}) == len(tasks)
    begin = 0
    for task in tasks:
        assert task.first == begin
        begin += len(task.ids)
        assert sum(map(len, task.ids)) < 2 * budget + len(task.ids[-1])
        assert sum(map(len, task.ids[:-1])) < 2 * budget
