"""Bad arguments of `ScaleDiTPipeline`: each is refused before anything is painted, in words that help."""

import pytest
import torch

PROMPT = "a red ball in a meadow"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, "height is 0 px; it must be a multiple of 16 and at least 64"),
        ({"width": 100}, "width is 100 px"),
        ({"height": -64}, "height is -64 px"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; it must be at least 1"),
        ({"high_res_steps": -1}, "high_res_steps is -1; it must be at least 1"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0; it must be at least 1"),
        ({"max_sequence_length": 513}, "max_sequence_length is 513; it must be 1 to 512"),
        ({"high_res_strength": 0.0}, r"high_res_strength is 0.0; it must lie in \(0, 1\]"),
        ({"high_res_strength": 1.5}, "high_res_strength is 1.5"),
        ({"high_res_strength": float("nan")}, "high_res_strength is nan"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan; it must be finite"),
        ({"prompt": None}, "give either prompt, or prompt_embeds together with pooled_prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 8, 16)}, "give either prompt"),
        ({"prompt": 7}, "prompt must be a string or a list of strings, got 7"),
        ({"prompt": []}, r"prompt must be a string or a list of strings, got \[\]"),
        ({"negative_prompt": 3.0}, "negative_prompt must be a string or a list of strings, got 3.0"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts were given for 1 prompts"),
        ({"negative_prompt": "a cat", "guidance_scale": 1.0}, "negative_prompt has no effect without"),
        ({"generator": [torch.Generator()] * 2}, "2 generators were given for 1 pictures"),
        (
            {"latents": torch.zeros(1, 4, 8, 9)},
            r"latents are \[1, 4, 8, 9\]; the first stage needs \[1, 4, 8, 8\]",
        ),
        ({"output_type": "jpeg"}, "output_type is 'jpeg'; it must be one of"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, r"callback tensors \['noise'\] are not among"),
        ({"attention_backend": "magic"}, "attention_backend is 'magic'; it must be auto or one of"),
    ],
)
def test_a_bad_argument_is_refused_before_the_first_step(pipeline, options, message):
    def fail(*_):
        raise AssertionError("a step was taken")

    options = {"prompt": PROMPT, **options}
    with pytest.raises(ValueError, match=message):
        pipeline(callback_on_step_end=fail, **options)


def test_states_need_their_pooled_vector(pipeline):
    with pytest.raises(ValueError, match="together with pooled_prompt_embeds"):
        pipeline(prompt_embeds=torch.zeros(1, 8, 16))
