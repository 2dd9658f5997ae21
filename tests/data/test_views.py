"""Views are crops of the padded image, and flips."""

import torch
from torch.nn.functional import pad

from bigbatch_ue.config.sections import AugmentConfig
from bigbatch_ue.data.views import apply_views, draw_views
from bigbatch_ue.runtime.randomness import Purpose, draw


def test_views_are_crops_of_the_padded_image_and_flips() -> None:
    augment = AugmentConfig(pad=2, flip=True)
    images = torch.arange(40 * 2 * 6 * 6).view(40, 2, 6, 6).to(torch.uint8)
    views = draw_views(draw(0, Purpose.VIEWS), 40, augment)
    seen = apply_views(images, views, pad=2)
    padded = pad(images, (2, 2, 2, 2))
    for i in range(40):
        crop = padded[i, :, views.top[i] : views.top[i] + 6, views.left[i] : views.left[i] + 6]
        assert torch.equal(seen[i], crop.flip(-1) if views.flip[i] else crop)
    assert 5 < views.flip.sum() < 35
    assert set(views.top) == set(range(5))


def test_no_padding_and_no_flip_change_nothing() -> None:
    views = draw_views(draw(0, Purpose.VIEWS), 5, AugmentConfig())
    images = torch.rand(5, 1, 4, 4)
    assert torch.equal(apply_views(images, views, pad=0), images)
