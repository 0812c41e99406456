"""The six parts that `cogvideo train` trains.

| part      | learns                        | from                             | starts from             |
|-----------|-------------------------------|----------------------------------|-------------------------|
| tokenizer | pixels <-> codes              | frames of clips                  | random                  |
| base      | text -> one frame             | cached ids, one frame            | random                  |
| stage1    | attention-plus for key frames | cached ids, lowest frame rate    | base                    |
| stage2    | attention-plus between frames | cached ids, several frame rates  | base (and stage 1's)    |
| superres  | coarse -> fine ids at once    | cached fine and coarse ids       | base                    |
| itersr    | gaps in fine ids              | cached fine ids                  | base                    |
"""

from cogvideo_jax.models.cogvideo.training import backbone_task, vq_task
from cogvideo_jax.models.cogvideo.training import config as configs
from cogvideo_jax.models.cogvideo.training.flops import step_work
from cogvideo_jax.training.task import TaskType


def _transformer(schema: type[configs.BackboneConfig]) -> TaskType:
    return TaskType(schema, backbone_task.BackboneTask, backbone_task.check_files, step_work)


TASKS = {
    "tokenizer": TaskType(configs.TokenizerConfig, vq_task.TokenizerTask, vq_task.check_files),
    "base": _transformer(configs.BaseConfig),
    "stage1": _transformer(configs.Stage1Config),
    "stage2": _transformer(configs.Stage2Config),
    "superres": _transformer(configs.SuperResolutionTraining),
    "itersr": _transformer(configs.SuperResolutionTraining),
}
