"""Traffic of a program, read from its text: loops multiply, steps of one operation count once."""

import jax
import jax.numpy as jnp
import pytest

from cogvideo_jax.runtime.collectives import Traffic, traffic

PROGRAM = """
HloModule step

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %gather = bf16[4,128]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %first = f32[8]{0} fusion(%y), kind=kCustom, calls=%steps
}

%steps (p: f32[8]) -> f32[8] {
  %again = bf16[4,128]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(48)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%all-reduce-scatter.1 (p: f32[8]) -> f32[2] {
  %sum = f32[8]{0} all-reduce(%x), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%add
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while(%t), condition=%condition, body=%body
  %scattered = f32[2] fusion(%z), kind=kCustom, calls=%all-reduce-scatter.1
  %started = (f32[4]{0}, f32[8]{0}) all-gather-start(%w), channel_id=3, replica_groups={{0,1},{2,3}}
  %sum = (f32[4]{0}, f32[4]{0}) all-reduce(%a, %b), channel_id=4, replica_groups={{0,1}}, to_apply=%add
}
"""


def test_every_operation_counts_as_often_as_it_runs():
    found = traffic(PROGRAM)
    gathered = 48 * 4 * 128 * 2 * 3 // 4 + 8 * 4 // 2
    assert found["all-gather"] == Traffic(48 + 1, gathered)
    assert found["all-reduce"] == Traffic(2, 8 * 4 * 3 // 4 + 2 * 8 * 4 // 2)
    assert set(found) == {"all-gather", "all-reduce"}


PEELED = """
%body (p: (s32[], u32[])) -> (s32[], u32[]) {
  %sum = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}, to_apply=%add
}

%condition (p: (u32[], s32[])) -> pred[] {
  %limit = s32[] constant(4)
  %i = s32[] get-tuple-element(%p), index=1
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %first = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %one = s32[]{:T(128)} constant(1)
  %copied = s32[]{:T(128)} copy(%one), metadata={}
  %start = (u32[], s32[]) tuple(%zero, %copied)
  %loop = (u32[], s32[]) while(%start), condition=%condition, body=%body
}
"""


def test_a_round_taken_out_of_its_loop_counts_and_the_loop_runs_once_less():
    assert traffic(PEELED)["all-reduce"] == Traffic(1 + 3, 4 * 8 * 4)


def test_a_loop_that_counts_without_a_sign_is_read():
    program = PEELED.replace("s32[]", "u32[]").replace("constant(1)", "constant(0)")
    assert traffic(program)["all-reduce"].count == 1 + 4


def test_a_program_on_one_device_sends_nothing():
    program = jax.jit(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=3)[0])
    assert traffic(program.lower(jnp.ones((4, 4))).compile().as_text()) == {}


@pytest.mark.parametrize("kind", ["reduce-scatter", "all-to-all", "collective-permute"])
def test_other_kinds_are_known(kind):
    line = f"  %x = f32[16]{{0}} {kind}(%y), channel_id=9, replica_groups={{{{0,1,2,3}}}}"
    sent = traffic(f"ENTRY %main (p: f32[8]) -> f32[8] {{\n{line}\n}}\n")[kind].bytes
    assert sent == {"reduce-scatter": 16 * 4 * 3, "all-to-all": 48, "collective-permute": 64}[kind]


@pytest.mark.parametrize(("groups", "size"), [("'b'", 4), ("'a','b'", 8), ("'a','b':(2)2", 4)])
def test_groups_are_read_from_axes_of_a_mesh(groups, size):
    line = f"  %x = f32[16]{{0}} all-to-all(%y), channel_id=9, replica_groups=mesh['a'=2,'b'=4,'c'=3] {{{groups}}}"
    assert traffic(f"ENTRY %main (p: f32[8]) -> f32[8] {{\n{line}\n}}\n")["all-to-all"].bytes == 64 * (size - 1) // size
