"""The shell interface: arguments in, one exit code out. Everything heavy is imported inside the commands.

Exit codes: 0 done; 2 input that has to change, with one line on stderr and nothing written; 1 anything else.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from studio.errors import StudioError
from studio.requests import DEFAULT_MODEL

Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage block."""
        raise StudioError("bad_input", f"{message}.", f"See `{self.prog} --help`.")


def build_parser() -> argparse.ArgumentParser:
    """All commands that exist; values arrive as text and are judged by `studio.requests`."""
    parser = _Parser(prog="python -m studio", description="Tessera Studio: one prompt, a very large picture.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_image(commands)
    _add_models(commands)
    score = commands.add_parser("score", help="say what the eyes see in pictures, as JSON")
    score.add_argument("files", nargs="+", metavar="FILE", help="pictures (.png, .jpg, .webp)")
    score.set_defaults(run=_lazy("studio.commands.score", "score"))
    _add_tokens(commands)
    _add_video(commands)
    _add_chain(commands)
    _add_scop(commands)
    kernels = commands.add_parser("kernels", help="test the attention kernels")
    actions = kernels.add_subparsers(title="actions", required=True, metavar="ACTION")
    selftest = actions.add_parser("selftest", help="which back ends run here, how exact, how fast")
    selftest.add_argument("--json", action="store_true", help="print one JSON object")
    selftest.set_defaults(run=_lazy("studio.commands.kernels", "selftest"))
    doctor = commands.add_parser("doctor", help="report versions, device, folders, port and models")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.set_defaults(run=_lazy("studio.doctor", "report"))
    replay = commands.add_parser("replay", help="paint a picture again from the recipe inside its file")
    replay.add_argument("file", metavar="FILE", help="a .png, .jpg or .webp file of this studio")
    replay.add_argument(
        "--out", metavar="FILE", help="also write it: .png, .jpg or .webp (default: compare only)"
    )
    replay.add_argument("--json", action="store_true", help="print one JSON object")
    replay.set_defaults(run=_lazy("studio.commands.painting", "replay"))
    return parser


def _add_serve(commands: argparse._SubParsersAction[_Parser]) -> None:
    serve = commands.add_parser("serve", help="start the web studio")
    serve.add_argument("--host", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", metavar="N", help="port to listen on (default: 7860)")
    serve.set_defaults(run=_lazy("studio.commands.serving", "serve"))


def _add_image(commands: argparse._SubParsersAction[_Parser]) -> None:
    image = commands.add_parser("image", help="paint one picture")
    image.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to paint; - reads it from stdin")
    image.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a text file")
    image.add_argument(
        "--size", default="1024x1024", metavar="WxH", help="multiples of 16 (default: 1024x1024)"
    )
    image.add_argument("--seed", default="0", metavar="N", help="same seed, same picture (default: 0)")
    image.add_argument("--steps", metavar="N", help="denoising steps (default: the model's own number)")
    image.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="a known model or a model folder (default: storybook)",
    )
    image.add_argument("--style", metavar="NAME", help="a style preset, for instance Night")
    image.add_argument(
        "--verify",
        default="0",
        metavar="K",
        help="look for a picture that shows what the prompt says, painting up to K small ones (1 to 16)",
    )
    image.add_argument(
        "--tenor",
        action=argparse.BooleanOptionalAction,
        help="text tokens know their positions, for models trained with CoMPaSS (default: as trained)",
    )
    image.add_argument(
        "--cut-prompt",
        action="store_true",
        help="read only what the text encoder reads at once, to compare with the whole prompt",
    )
    image.add_argument("--out", required=True, metavar="FILE", help="where to write: .png, .jpg or .webp")
    image.add_argument("--json", action="store_true", help="print one JSON object")
    image.set_defaults(run=_lazy("studio.commands.painting", "image"))


def _add_tokens(commands: argparse._SubParsersAction[_Parser]) -> None:
    tokens = commands.add_parser("tokens", help="pictures as 1 to 256 ordered tokens")
    actions = tokens.add_subparsers(title="actions", required=True, metavar="ACTION")
    encode = actions.add_parser("encode", help="turn a picture into a token file")
    encode.add_argument("image", metavar="IMAGE", help="a picture (.png, .jpg, .webp)")
    encode.add_argument("--out", required=True, metavar="FILE", help="where to write: .fxtk")
    encode.add_argument("--keep", metavar="K", help="tokens, 1 to 256 (default: all)")
    encode.add_argument("--fit", default="letterbox", metavar="HOW", help="letterbox, crop or tiles")
    decode = actions.add_parser("decode", help="turn a token file into a picture")
    decode.add_argument("file", metavar="FILE", help="a token file (.fxtk)")
    decode.add_argument("--keep", metavar="K", help="use only the first K tokens (default: all)")
    generate = actions.add_parser("generate", help="draw tokens from text and write their picture")
    _add_prompt(generate)
    generate.add_argument("--keep", metavar="K", help="tokens, 1 to 256 (default: the model's own number)")
    generate.add_argument("--temperature", default="1", metavar="T", help="above 0 (default: 1)")
    generate.add_argument("--top-k", default="0", metavar="N", help="only the N likeliest ids (default: all)")
    generate.add_argument("--top-p", default="0", metavar="P", help="only the likeliest ids (default: all)")
    generate.add_argument("--tokens-out", metavar="FILE", help="also write the tokens: .fxtk")
    for action in (decode, generate):
        action.add_argument(
            "--out", required=True, metavar="FILE", help="where to write: .png, .jpg or .webp"
        )
        action.add_argument("--seed", default="0", metavar="N", help="same seed, same picture (default: 0)")
        action.add_argument("--steps", metavar="N", help="decoding steps (default: the model's own)")
    for action, name in ((encode, "encode"), (decode, "decode"), (generate, "generate")):
        action.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="default: storybook")
        action.add_argument("--json", action="store_true", help="print one JSON object")
        action.set_defaults(run=_lazy("studio.commands.tokens", name))


def _add_video(commands: argparse._SubParsersAction[_Parser]) -> None:
    video = commands.add_parser("video", help="film a clip, and clips that continue it")
    _add_prompt(video)
    video.add_argument(
        "--prompt-at",
        nargs=2,
        action="append",
        default=[],
        metavar=("CLIP", "TEXT"),
        help="the prompt from that clip on, counted from 1; may be given several times",
    )
    video.add_argument("--clips", default="4", metavar="K", help="number of clips, 1 to 200 (default: 4)")
    video.add_argument("--frames", default="8", metavar="N", help="frames of each clip (default: 8)")
    video.add_argument("--fps", default="8", metavar="N", help="frames per second when played (default: 8)")
    video.add_argument("--size", metavar="WxH", help="multiples of 16 up to 1024 (default: the model's own)")
    video.add_argument("--seed", default="0", metavar="N", help="same seed, same video (default: 0)")
    video.add_argument("--steps", metavar="N", help="denoising steps of each clip (default: the model's own)")
    video.add_argument("--start", metavar="FILE", help="a picture to begin with, or a video to continue")
    video.add_argument("--order", default="chronological", metavar="HOW", help="chronological or mirror")
    video.add_argument("--loop", action="store_true", help="let the end lead back to the beginning")
    video.add_argument("--smooth", default="1", metavar="N", help="2 or 4: more frames (default: 1)")
    video.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="default: storybook")
    video.add_argument(
        "--clip-seed",
        nargs=2,
        action="append",
        default=[],
        metavar=("CLIP", "N"),
        help="a seed of that clip alone; may be given several times",
    )
    video.add_argument(
        "--keep-clips",
        action="store_true",
        help="keep the clips beside FILE, so that one can be filmed again",
    )
    video.add_argument("--again", metavar="CLIP", help="film this clip of a kept film again, others stay")
    video.add_argument("--out", required=True, metavar="FILE", help="where to write: .mp4, .webp, .gif")
    video.add_argument("--json", action="store_true", help="print one JSON object")
    video.set_defaults(run=_lazy("studio.commands.video", "video"))


def _add_chain(commands: argparse._SubParsersAction[_Parser]) -> None:
    chain = commands.add_parser("chain", help="a picture, its tokens, and a video that starts from them")
    _add_prompt(chain)
    chain.add_argument(
        "--size", default="1024x1024", metavar="WxH", help="of the picture (default: 1024x1024)"
    )
    chain.add_argument("--seed", default="0", metavar="N", help="same seed, same files (default: 0)")
    chain.add_argument(
        "--steps", metavar="N", help="denoising steps of the picture (default: the model's own)"
    )
    chain.add_argument("--keep", metavar="K", help="tokens, 1 to 256 (default: all)")
    chain.add_argument("--film-prompt", metavar="TEXT", help="what happens in the video (default: PROMPT)")
    chain.add_argument("--clips", default="4", metavar="K", help="number of clips, 1 to 200 (default: 4)")
    chain.add_argument("--frames", default="8", metavar="N", help="frames of each clip (default: 8)")
    chain.add_argument("--fps", default="8", metavar="N", help="frames per second when played (default: 8)")
    chain.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="paints (default: storybook)")
    for name, does in (("tokens", "makes tokens"), ("video", "films")):
        chain.add_argument(
            f"--{name}-model", default=DEFAULT_MODEL, metavar="NAME", help=f"{does} (default: storybook)"
        )
    chain.add_argument("--out", required=True, metavar="DIR", help="folder of the files, made if needed")
    chain.add_argument("--json", action="store_true", help="print one JSON object")
    chain.set_defaults(run=_lazy("studio.commands.chain", "chain"))


def _add_prompt(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text; - reads it from stdin")
    command.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a text file")


def _add_scop(commands: argparse._SubParsersAction[_Parser]) -> None:
    scop = commands.add_parser("scop", help="mine pairs with a clear relation from COCO annotations")
    scop.add_argument("--annotations", required=True, metavar="FILE", help="COCO instances file, zip, folder")
    scop.add_argument("--images", metavar="DIR", help="folder or zip of the pictures")
    scop.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    scop.add_argument("--split", default="train2017", metavar="NAME", help="part of COCO (train2017)")
    scop.add_argument("--profile", choices=("official", "strict"), default="official", help="rules to go by")
    scop.add_argument("--thresholds", choices=("usual", "geneval"), default="usual", help="a set of them")
    for name, words in (
        ("min-bbox-area", "smallest box in square pixels (1024)"),
        ("visual-significance", "least share of the picture that both boxes cover (0.2)"),
        ("spatial-clarity", "largest distance of the centres in diagonals of the smaller box (2)"),
        ("minimal-overlap", "the boxes share less than this part of the smaller one (0.3)"),
        ("size-balance", "least ratio of the smaller area to the larger (0.5)"),
        ("containment", "strict profile: least share of each box inside the crop (0.9)"),
        ("uniqueness", "strict profile: most of a third box of either class in the crop (0.1)"),
    ):
        scop.add_argument(f"--{name}", type=float, metavar="NUMBER", help=words)
    scop.add_argument("--keep", choices=("link", "copy", "none"), default="link", help="of pictures")
    scop.add_argument("--shared-images", metavar="DIR", help="keep pictures there, for several data sets")
    scop.add_argument("--samples", type=int, default=0, metavar="N", help="pictures with drawn boxes")
    scop.add_argument("--mirror", action="store_true", help="also write mirror images (strict profile)")
    scop.add_argument("--skip-invalid", action="store_true", help="leave bad annotations out, do not refuse")
    scop.add_argument("--json", action="store_true", help="print one JSON object")
    scop.set_defaults(run=_lazy("studio.commands.scop", "scop"))


def _add_models(commands: argparse._SubParsersAction[_Parser]) -> None:
    models = commands.add_parser("models", help="list, verify or convert models")
    actions = models.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="names, state, size and licence")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    listing.set_defaults(run=_lazy("studio.commands.models", "list_models"))
    verify = actions.add_parser("verify", help="read every model file and compare it with the manifest")
    verify.add_argument("names", nargs="*", metavar="NAME", help="models to verify (default: all)")
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    convert = actions.add_parser("convert", help="turn published files into a folder of ours", add_help=False)
    convert.add_argument("kind", metavar="KIND", help="compass, longsd, long-clip or vidrd")
    convert.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="KIND --help lists them")
    convert.set_defaults(run=_lazy("studio.commands.converting", "convert"))
    verify.set_defaults(run=_lazy("studio.commands.models", "verify_models"))


def _lazy(module: str, function: str) -> Command:
    """A command that is imported when it is run."""

    def run(arguments: argparse.Namespace) -> int:
        command: Command = getattr(import_module(module), function)
        return command(arguments)

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program's name. Default: those of this process.
    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # a prompt with any script must not fail on a terminal that can't show it
            stream.reconfigure(errors="backslashreplace")
    try:
        parsed = build_parser().parse_args(arguments)
        run: Command = parsed.run
        return run(parsed)
    except StudioError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: stopped; nothing was written.", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        print("error: something unexpected went wrong (see above); nothing was written.", file=sys.stderr)
        return 1
