"""The worked examples of CONTRIBUTING.md run as they stand there, one after the other."""

import re
from pathlib import Path

import numpy as np

TEXT = (Path(__file__).parents[1] / 'CONTRIBUTING.md').read_text()


def test_the_worked_examples_run():
    blocks = re.findall(r'```python\n(.*?)```', TEXT, re.S)
    assert len(blocks) == 4, 'a model, a loss, a metric, a baseline'
    scope = {}
    for code in blocks:
        exec(code, scope)
    learn = scope['learn']
    evaluate = scope['evaluate']
    hr = scope['hr']
    hinge = scope['HingeLoss']()
    scores = scope['torch'].tensor([[2.0, 1.5, 0.0]])
    target = scope['torch'].tensor([[1.0, 0.0, 0.0]])
    assert hinge(scores, target).item() == np.mean([0.5, 0.0])
    table = evaluate(learn, metrics=[hr(10), scope['first_hit'](10)])
    assert 1 <= table['first_hit@10']['all'] <= 11
    assert (table['first_hit@10']['all'] == 11) == (table['hr@10']['all'] == 0)
    recent = scope['MostRecent']().fit(scope['ddls'])
    history = scope['ddls'].catalog.history
    newest = history.interactions.items[history.split.train[-1]]
    assert recent.score_items(scope['torch'].tensor([0])).argmax().item() == newest


def test_every_room_is_named():
    from test_architecture import ORDER

    text = TEXT.replace(' ... ', ', ')
    for room in ORDER:
        name = room.rpartition('.')[2]
        in_between = room in ('models.svdpp', 'models.neumf', 'models.content', 'models.gated')
        assert in_between or re.search(rf'`(\w+/)?{name}`', text), f'{room} is not in the table of rooms'
