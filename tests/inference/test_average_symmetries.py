from __future__ import annotations

import torch
from torch import Tensor, nn

from patch2tissue.data.augment import apply_symmetry
from patch2tissue.inference.symmetries import average_symmetries


def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softmax(dim=1)).eval()


@torch.inference_mode()
def test_a_pixelwise_network_is_not_changed() -> None:
    images = torch.rand(2, 3, 20, 32)
    torch.testing.assert_close(average_symmetries(lambda x: x * 2)(images), images * 2)


@torch.inference_mode()
def test_mean_over_the_symmetries_written_out() -> None:
    network, images = conv(), torch.rand(1, 3, 12, 16)
    views = [
        network(images),
        network(images.rot90(1, (2, 3))).rot90(-1, (2, 3)),
        network(images.rot90(2, (2, 3))).rot90(-2, (2, 3)),
        network(images.rot90(3, (2, 3))).rot90(-3, (2, 3)),
        network(images.flip(3)).flip(3),
        network(images.flip(2)).flip(2),
        network(images.transpose(2, 3)).transpose(2, 3),
        network(images.flip(2, 3).transpose(2, 3)).transpose(2, 3).flip(2, 3),
    ]
    torch.testing.assert_close(average_symmetries(network)(images), torch.stack(views).mean(dim=0))


@torch.inference_mode()
def test_result_turns_with_the_image() -> None:
    network, images = average_symmetries(conv()), torch.rand(2, 3, 16, 24)
    for operation in range(8):
        turned = network(apply_symmetry(images, operation))
        torch.testing.assert_close(turned, apply_symmetry(network(images), operation))


@torch.inference_mode()
def test_shape_and_sum_stay_and_the_network_is_asked_eight_times() -> None:
    calls: list[tuple[int, ...]] = []
    inner = conv()

    def counting(images: Tensor) -> Tensor:
        calls.append(tuple(images.shape))
        return inner(images)

    found = average_symmetries(counting)(torch.rand(1, 3, 8, 40))
    assert found.shape == (1, 4, 8, 40)
    assert len(calls) == 8
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 8, 40))
