"""Guidance and noise levels that Storybook's models paint best with, by their eyes: docs/storybook_log.md."""

FLUX_GUIDANCE = 5.0  # 40 % right with 3, 56 % with 5
FLUX_SHIFT = 4.0  # of the scheduler: in 8 steps 62 % right with 1, 79 % with 2, 82 % with 4
FILM_GUIDANCE = 4.0  # 16 films: kind kept in 9, direction in 14 with 3; 11 and 14 with 4; 10 and 12 with 5
SD_GUIDANCE = 5.0  # two objects, seen and held out: 64 and 59 % right with 5, 68 and 54 % with 7
