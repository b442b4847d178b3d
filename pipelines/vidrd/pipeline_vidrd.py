"""Text (and picture or video) to video: one clip, then clips that continue it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from pipelines.vidrd.clip_loop import ClipLatents, ClipLoop, ClipPlan, Step, Stopped, ending_from
from pipelines.vidrd.clip_store import ClipStore, FinishedClip
from pipelines.vidrd.denoiser import UNetDenoiser
from pipelines.vidrd.film_plan import ClipOrder, ClipSettings, FilmPlan, read_settings
from pipelines.vidrd.film_texts import Texts, draw_seeds
from pipelines.vidrd.frames import middle_crop
from pipelines.vidrd.handover import Handover
from pipelines.vidrd.image_model import LiesOverImageModel
from pipelines.vidrd.noise import NoiseSource, PublishedNoise, SeededNoise, Shape
from pipelines.vidrd.output import VideoOutput
from pipelines.vidrd.trajectory import FRAMES, Guide, Trajectory, clean_guide, made_up_trajectory

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MAX_SIDE = 4096
START_NUMBER = -1  # noise of pictures that a film starts from is drawn as that of a clip before the first
# a film that starts from one picture meets it in its first frame, in every call
PICTURE_HANDOVER = Handover(overlap=1, guidance=1.0, order="mirror")


class VidRDPipeline(LiesOverImageModel, DiffusionPipeline):
    """VidRD: Stable Diffusion components with a video UNet and (optionally) a temporal decoder.

    A film is `num_clips` clips of `num_frames` frames; each clip continues the one before by its noise and by
    the latents of its first steps. Memory is that of one clip; `film` gives clips as they are finished.

    Source: arXiv 2309.03549. Differences from the released code: `docs/vidrd.md`.

    Attributes:
        clip_index, step_in_clip: where it is (read them in callbacks).
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _callback_tensor_inputs = ["latents", "denoised"]

    def __init__(
        self,
        vae: AutoencoderKL | VidRDAutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: Any,
        scheduler: Any,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler
        )
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor, resample="bicubic")
        self.clip_index = 0
        self.step_in_clip = 0
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def base_size(self) -> int:
        """Side in pixels of the pictures that the UNet was trained on."""
        return (self.unet.config.sample_size or 64) * self.vae_scale_factor

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def encode_prompt(self, prompt: str | Sequence[str]) -> torch.Tensor:
        """States of the text encoder, `[B, L, J]`; L is the tokenizer's length, longer texts are cut."""
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        return self.text_encoder(ids.to(self._execution_device))[0].to(self.unet.dtype)

    def encode_pictures(self, pictures: Sequence[Image.Image], height: int, width: int) -> torch.Tensor:
        """Latents `[1, C, F, h, w]` float32 of frames; they are cropped in the middle and resized to fit."""
        ready = [middle_crop(picture.convert("RGB"), width, height) for picture in pictures]
        pixels = self.image_processor.preprocess(ready).to(self._execution_device, self.vae.dtype)
        means = torch.cat([self.vae.encode(part).latent_dist.mean for part in pixels.split(8)])
        latents = (means.float() - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor
        return latents.transpose(0, 1)[None]

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures `[B, F, 3, H, W]` float32 in [0, 1] of latents `[B, C, F, h, w]`.

        The frames of a clip are decoded together wherever the decoder looks along time.
        """
        batch, channels, num_frames, height, width = latents.shape
        z = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        z = z.transpose(1, 2).reshape(batch * num_frames, channels, height, width).to(self.vae.dtype)
        if isinstance(self.vae, VidRDAutoencoderKL):
            pixels = self.vae.decode(z, num_frames=num_frames).sample
        else:
            pixels = torch.cat([self.vae.decode(part).sample for part in z.split(8)])
        pixels = (pixels.float() / 2 + 0.5).clamp(0, 1)
        return pixels.reshape(batch, num_frames, *pixels.shape[1:])

    @torch.no_grad()
    def film(
        self,
        plan: FilmPlan,
        *,
        start: Sequence[Image.Image] | None = None,
        store: ClipStore | None = None,
        noise: NoiseSource | None = None,
        texts: Texts | None = None,
        report: Callable[[Step], None] | None = None,
    ) -> Iterator[FinishedClip]:
        """Give clips one by one, each as soon as it is decoded.

        Args:
            plan: what to film.
            start: one picture that the film begins with, or at least `num_frames` frames of a video that it
                continues (its last ones count).
            store: keeps finished clips; those it holds already are given at once, and filming goes on behind
                them with the same result as without the break.
            noise: instead of the seeds of the plan.
            texts: encoded prompts, instead of encoding them here.
            report: called after every step; raise `Stopped` in it to end.
        Raises:
            ValueError: sizes that the model can't paint, a start that is too short, a damaged store.
        """
        shape, (plan, orders) = self.latent_shape(plan), self._settled(plan)
        loop = self._loop(plan, noise or _seeded(plan, shape), report)
        texts = texts or Texts(self.encode_prompt)
        previous, first_handover = None, None
        if start:
            first_handover = self._picture_handover if len(start) == 1 else orders[0].handover
            previous = self._start_trajectory(loop, plan, start, first_handover)
        opening: Trajectory | None = None
        for number, order in enumerate(orders):
            if store is not None and store.has(number):
                finished = store.load(number, self._execution_device)
            else:
                closes = plan.is_loop and number == plan.num_clips - 1
                step = ClipPlan(
                    index=number,
                    handover=first_handover if number == 0 and first_handover else order.handover,
                    next_handover=_following(plan, orders, number),
                    condition_at=texts.condition(plan, orders, number, loop.prepare()),
                    opens_loop=plan.is_loop and number == 0,
                    closes_loop=closes,
                )
                ending = ending_from(opening, plan.handover) if closes and opening is not None else None
                finished = self._finish(loop.film(step, previous, ending))
                if store is not None:
                    store.save(finished)
            previous = finished.clip.trajectory
            opening = finished.clip.opening or opening
            yield finished

    @torch.no_grad()
    def film_again(
        self,
        plan: FilmPlan,
        number: int,
        store: ClipStore,
        *,
        start: Sequence[Image.Image] | None = None,
        report: Callable[[Step], None] | None = None,
    ) -> FinishedClip:
        """Film one clip of a stored film again, with the settings that `plan` now has for it.

        Its head is guided by the clip before; where a clip follows, its tail is guided to where the old
        version ended, so that both still meet. The store then holds the new version.

        Args:
            plan: as stored, but for `settings[number]` (another seed or prompt) and what follows from it.
            number: which clip, from 0.
            start: what the film started from, needed for clip 0.
        Raises:
            ValueError: the store lacks this clip or the one before; or it opens a loop.
        """
        if not 0 <= number < store.count():
            raise ValueError(f"clip {number} is not among the {store.count()} clips in {store.folder}")
        if plan.is_loop and number == 0:
            raise ValueError(
                "the first clip of a loop can't be filmed again alone: the last one leads back to it"
            )
        shape, (plan, orders) = self.latent_shape(plan), self._settled(plan)
        old = store.load(number, self._execution_device, any_settings=True).clip
        loop = self._loop(plan, _seeded(plan, shape), report)
        calls, previous, ending = loop.prepare(), None, None
        handover = orders[number].handover
        if number:
            previous = store.load(number - 1, self._execution_device, any_settings=True).clip.trajectory
        elif start:
            handover = self._picture_handover if len(start) == 1 else handover
            previous = self._start_trajectory(loop, plan, start, handover)
        following = _following(plan, orders, number)
        if old.closes:
            opening = store.load(0, self._execution_device, any_settings=True).clip.opening
            ending = ending_from(opening, plan.handover) if opening is not None else None
        elif number + 1 < store.count():
            room = plan.num_frames - (handover.overlap if previous is not None else 0)
            if following.clean:  # what is given clean can't change any more
                room = max(1, room // 4)
            ending = _old_ending(
                loop, old, replace(following, overlap=min(following.overlap, room), guidance=1.0)
            )
        step = ClipPlan(
            index=number,
            handover=handover,
            next_handover=following,
            condition_at=Texts(self.encode_prompt).condition(plan, orders, number, calls),
            closes_loop=old.closes,
        )
        finished = self._finish(loop.film(step, previous, ending))
        store.save(finished)
        for later in range(number + 1, store.count()):
            store.relabel(later)
        return finished

    @property
    def knows_context(self) -> bool:
        """Whether the weights go on from clean frames."""
        return bool(getattr(self.unet.config, "knows_context", False))

    @property
    def _picture_handover(self) -> Handover:
        return replace(PICTURE_HANDOVER, clean=self.knows_context)

    def _settled(self, plan: FilmPlan) -> tuple[FilmPlan, list[ClipOrder]]:
        """The plan and its clips with hand-overs as these weights do them."""
        knows = self.knows_context
        orders = [replace(order, handover=order.handover.settled(knows)) for order in plan.clips()]
        return replace(plan, handover=plan.handover.settled(knows)), orders

    def latent_shape(self, plan: FilmPlan) -> Shape:
        """`[B, C, F, h, w]` of a film's clips.

        Raises:
            ValueError: sizes that the model can't paint.
        """
        factor = self.vae_scale_factor
        for name, value in (("height", plan.height), ("width", plan.width)):
            if not factor <= value <= MAX_SIDE or value % factor:
                raise ValueError(f"{name} is {value}; it must be a multiple of {factor}, at most {MAX_SIDE}")
        channels = self.vae.config.latent_channels
        return len(plan.prompts), channels, plan.num_frames, plan.height // factor, plan.width // factor

    def _loop(self, plan: FilmPlan, noise: NoiseSource, report: Callable[[Step], None] | None) -> ClipLoop:
        scheduler = type(self.scheduler).from_config(self.scheduler.config)  # its state is this run's alone
        return ClipLoop(
            UNetDenoiser(self.unet),
            scheduler,
            plan.num_inference_steps,
            noise,
            self._execution_device,
            report,
            as_published=isinstance(noise, PublishedNoise),
        )

    def _start_trajectory(
        self, loop: ClipLoop, plan: FilmPlan, start: Sequence[Image.Image], handover: Handover
    ) -> Trajectory:
        count = plan.num_frames
        if 1 < len(start) < count:
            raise ValueError(
                f"the start has {len(start)} frames; give one picture, or at least {count} frames"
            )
        frames = list(start) * count if len(start) == 1 else list(start)[-count:]
        if len(start) == 1:
            latents = self.encode_pictures(frames[:1], plan.height, plan.width).expand(-1, -1, count, -1, -1)
        else:
            latents = self.encode_pictures(frames, plan.height, plan.width)
        latents = latents.expand(len(plan.prompts), -1, -1, -1, -1)
        noise = loop.noise.fresh(START_NUMBER).to(latents)
        calls = loop.prepare()
        trajectory = made_up_trajectory(loop.scheduler, latents, noise, handover.selection(count, calls))
        trajectory.finished = latents
        return trajectory

    def _finish(self, clip: ClipLatents) -> FinishedClip:
        """Decode the whole clip, then keep the frames that are shown."""
        first, end = clip.shown()
        pixels = self.decode_latents(clip.latents)[:, first:end]
        frames = (pixels * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu()
        return FinishedClip(clip, frames)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_clips: int = 1,
        num_frames: int = 8,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        overlap_frames: int = 4,
        noise_recycle: float | None = None,
        denoise_guidance: float | None = None,
        order: str = "chronological",
        schedule: Mapping[int, ClipSettings | str] | None = None,
        prompt_fade: float = 0.2,
        is_loop: bool = False,
        image: Image.Image | None = None,
        video: Sequence[Image.Image] | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  (diffusers' signature)
        callback_on_clip_end: Callable[["VidRDPipeline", FinishedClip], None] | None = None,
        as_published: bool = False,
    ) -> VideoOutput | tuple:
        """Film.

        Args:
            prompt, negative_prompt: one text, or one per video; the negative one is used by guidance.
            num_clips: clips, each continuing the one before. num_frames: frames of a clip, 1 to 128.
            height, width: pixels, multiples of the autoencoder's factor (8). Default: the base size.
            num_inference_steps: of each clip. guidance_scale: classifier-free; 1 or less switches it off.
            overlap_frames, noise_recycle, denoise_guidance, order: `Handover`. In "chronological" order the
                overlap is shown once, in "mirror" order (the paper's) motion runs back at the borders.
                Recycle and guidance (4.0 and 0.4) ask for staged guidance; without them, weights that know
                how go on from the clean frames.
            schedule: clip number from 0 -> text (holds from there on) or `ClipSettings`.
            prompt_fade: share of a clip's steps in which a changed prompt fades in.
            is_loop: the end leads back to the beginning.
            image: the film begins with it. video: at least `num_frames` frames that the film continues; they
                are not repeated in the output. Both are cropped in the middle and resized.
            num_videos_per_prompt: videos per prompt.
            generator: one, or a list with one per video; gives each video its seed.
            latents: noise of the first clip, `[B, C, F, h / 8, w / 8]`.
            prompt_embeds, negative_prompt_embeds: instead of the texts, as `encode_prompt` returns them.
            output_type: "pil", "np", "pt" or "latent" (`VideoOutput`).
            callback_on_step_end: `(pipe, step, timestep, tensors) -> dict`; steps count over all clips.
                Tensors: "latents" and "denoised" (the present estimate), `[B, C, F, h, w]`; latents that it
                returns are used. Set `pipe._interrupt = True` in it to stop.
            callback_on_clip_end: `(pipe, finished clip)`, as soon as a clip can be seen.
            as_published: draw all noise from the one generator in the order of the released code, with its
                slice at full overlap; for comparisons.
        Returns:
            `VideoOutput`, or a tuple of its fields. After a stop it holds the clips finished before.
        Raises:
            ValueError: a bad argument, with what was given and what is allowed.
        """
        # 1. check
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; it must be one of {OUTPUT_TYPES}")
        unknown = sorted(set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(f"callback tensors {unknown} are not among {self._callback_tensor_inputs}")
        if image is not None and video is not None:
            raise ValueError("give either an image or a video to start from, not both")
        if video is not None and len(video) < num_frames:
            raise ValueError(
                f"the video to continue has {len(video)} frames; at least {num_frames} are needed"
            )
        # 2. batch, texts and seeds
        texts = Texts(self.encode_prompt)
        prompts = texts.read("prompt", prompt, prompt_embeds, num_videos_per_prompt)
        negatives = texts.read_negative(
            negative_prompt, negative_prompt_embeds, prompts, num_videos_per_prompt
        )
        seeds = draw_seeds(generator, len(prompts), as_published)
        plan = FilmPlan(
            prompts=prompts,
            negative_prompts=negatives,
            seeds=seeds,
            height=self.base_size if height is None else height,
            width=self.base_size if width is None else width,
            num_clips=num_clips,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            handover=_asked_handover(overlap_frames, noise_recycle, denoise_guidance, order),
            settings=read_settings(schedule),
            prompt_fade=prompt_fade,
            is_loop=is_loop,
        )
        shape = self.latent_shape(plan)
        noise: NoiseSource = _seeded(plan, shape, latents)
        if as_published:
            noise = PublishedNoise(shape, generator or torch.Generator())

        # 3. film
        def report(step: Step) -> None:
            self.clip_index, self.step_in_clip = step.clip, step.call
            self._num_timesteps = step.calls * num_clips
            bar.total = self._num_timesteps
            bar.update()
            if callback_on_step_end is not None:
                tensors = {"latents": step.latents, "denoised": step.denoised}
                chosen = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                index = step.clip * step.calls + step.call
                answer = callback_on_step_end(self, index, step.timestep, chosen) or {}
                step.latents = answer.get("latents", step.latents)
            if self._interrupt:
                raise Stopped

        self._interrupt = False
        start = [image] if image is not None else video
        videos: list[Any] = []
        with self.progress_bar(total=num_inference_steps * num_clips) as bar:
            try:
                for finished in self.film(plan, start=start, noise=noise, texts=texts, report=report):
                    videos.append(self._shown(finished, output_type))
                    if callback_on_clip_end is not None:
                        callback_on_clip_end(self, finished)
            except Stopped:
                pass
        # 4. put together
        self.maybe_free_model_hooks()
        clips = [[clip[row] for clip in videos] for row in range(len(prompts))]
        frames = _joined(clips, output_type)
        return VideoOutput(frames=frames, clips=clips) if return_dict else (frames, clips)

    def _shown(self, finished: FinishedClip, output_type: str) -> list[Any]:
        """The shown part of a clip, one entry per video."""
        if output_type == "pt":
            return list(finished.frames.permute(0, 1, 4, 2, 3).float() / 255)
        if output_type == "latent":
            first, end = finished.clip.shown()
            return list(finished.clip.latents[:, :, first:end].transpose(1, 2))
        arrays = [video.numpy() for video in finished.frames]
        return (
            arrays
            if output_type == "np"
            else [[Image.fromarray(frame) for frame in video] for video in arrays]
        )


def _seeded(plan: FilmPlan, shape: Shape, first: torch.Tensor | None = None) -> SeededNoise:
    own = {number: order.seed for number, order in enumerate(plan.clips()) if order.seed is not None}
    return SeededNoise(shape, plan.seeds, own, first)


def _following(plan: FilmPlan, orders: Sequence[ClipOrder], number: int) -> Handover:
    """How the next clip will be entered; the film's hand-over behind the last."""
    return orders[number + 1].handover if number + 1 < len(orders) else plan.handover


def _asked_handover(overlap: int, recycle: float | None, guidance: float | None, order: str) -> Handover:
    """As arguments say; staged guidance is asked for by naming how much of it."""
    asked = {"recycle": recycle, "guidance": guidance}
    staged: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    return Handover(overlap, order=order, clean=False if staged else None, **staged)


def _old_ending(loop: ClipLoop, old: ClipLatents, handover: Handover) -> tuple[Guide, torch.Tensor]:
    """Guide towards the last frames of an earlier version of a clip; the very last is guided longest."""
    start, last = old.trajectory.start, old.latents.shape[FRAMES]
    if handover.clean:
        tail = range(last - handover.overlap, last)
        return clean_guide(old.trajectory, tail, at_end=True), start[:, :, last - handover.overlap :]
    counts = handover.guided_frames(len(loop.scheduler.timesteps))
    selection = [list(range(last - count, last)) for count in counts]
    noise = start / getattr(loop.scheduler, "init_noise_sigma", 1.0)
    trajectory = made_up_trajectory(loop.scheduler, old.latents, noise, selection)
    return Guide(trajectory.steps, at_end=True), start[:, :, last - handover.overlap :]


def _joined(clips: list[list[Any]], output_type: str) -> Any:
    """All clips of each video behind each other."""
    if not clips[0]:
        return []
    if output_type == "pil":
        return [[frame for clip in video for frame in clip] for video in clips]
    if output_type == "np":
        return np.stack([np.concatenate(video) for video in clips])
    return torch.stack([torch.cat(video) for video in clips])
