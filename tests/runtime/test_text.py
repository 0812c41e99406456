"""One form of every prompt and caption."""

import jax
import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import make_request
from cogvideo_jax.runtime.text import plain_text


@pytest.mark.parametrize(
    "typed, plain",
    [
        ("a red ball", "a red ball"),
        ("  a\tred \r\n ball\u3000\u00a0", "a red ball"),
        ("\ufeffa red ball", "a red ball"),
        ("a dog\u2019s \u201cball\u201d \u2018here\u2019", "a dog's \"ball\" 'here'"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u200b red\u00ad ball\x07", "a red ball"),
        ("红色的球，向右移动。", "红色的球，向右移动。"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),  # a joiner inside a picture stays
    ],
)
def test_text_gets_one_form(typed, plain):
    assert plain_text(typed) == plain == plain_text(plain)


def test_requests_have_plain_prompts_unless_they_follow_the_release():
    assert make_request(prompts=("a dog\u2019s  ball",)).prompts == ("a dog's ball",)
    assert make_request(prompts=("a dog\u2019s  ball",), compat="release").prompts == ("a dog\u2019s  ball",)


def test_no_two_seeds_of_64_bits_give_the_same_video():
    seeds = (0, 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 1)
    keys = make_request(prompts=("a ball",) * len(seeds), seeds=seeds).keys()
    assert len({tuple(map(int, data)) for data in jax.random.key_data(keys)}) == len(seeds)
    with pytest.raises(UserError, match=r"seeds\[0\] is 18446744073709551616"):
        make_request(prompts=("a ball",), seeds=(2**64,))


@pytest.mark.parametrize("field", ["seeds", "copies"])
def test_every_prompt_has_a_seed_and_a_copy_or_none_has(field):
    with pytest.raises(UserError, match=field):
        make_request(prompts=("a ball", "a cat"), **{field: (1,)})
