"""The door to CoMPaSS's reading of prompts: rules, no model; imported when first needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from studio.reading import Box, Reading, SaidRelation, Thing

# a sketch of more things could not be read, and laying them out takes seconds
_MOST_LAID_OUT = 12
# a page of text may say hundreds; looking for contradictions takes longer than the square of their number
_MOST_RELATIONS = 40


class PipelineReader:
    """The real `Reader`."""

    def read(self, prompt: str, aspect: float) -> Reading:
        """See `Reader`."""
        from pipelines.compass.layout import suggest_layout
        from pipelines.compass.parser import parse_prompt
        from pipelines.compass.relations import DIAGONAL, PLAIN
        from pipelines.longalign.prompt_weights import hide_breaks

        parsed = parse_prompt(hide_breaks(prompt))
        if len(parsed.relations) > _MOST_RELATIONS:
            left_out = f"Only the first {_MOST_RELATIONS} of {len(parsed.relations)} relations are shown."
            parsed = replace(parsed, relations=parsed.relations[:_MOST_RELATIONS])
        else:
            left_out = ""
        relations = tuple(
            SaidRelation(
                relation.subject,
                relation.objects,
                relation.predicate,
                relation.start,
                relation.end,
                parsed.describe(relation),
                PLAIN + DIAGONAL if relation.end > relation.start else (),
            )
            for relation in parsed.relations
        )
        has_sketch = bool(relations) and len(parsed.entities) <= _MOST_LAID_OUT
        return Reading(
            prompt=prompt,
            things=tuple(Thing(entity.text, entity.start, entity.end) for entity in parsed.entities),
            relations=relations,
            boxes=suggest_layout(parsed, aspect) if has_sketch else {},
            impossible=tuple((found.relations, found.message) for found in parsed.contradictions),
            remarks=(*((left_out,) if left_out else ()), *(remark.message for remark in parsed.remarks)),
        )

    def with_predicate(self, prompt: str, relation: int, predicate: str) -> str:
        """See `Reader`."""
        from pipelines.compass.parser import parse_prompt
        from pipelines.compass.prompt_text import with_predicate

        changed: str = with_predicate(parse_prompt(prompt), relation, predicate)
        return changed

    def with_boxes(self, prompt: str, boxes: Mapping[int, Box], aspect: float) -> str:
        """See `Reader`."""
        from pipelines.compass.parser import parse_prompt
        from pipelines.compass.prompt_text import prompt_from_boxes

        changed: str = prompt_from_boxes(parse_prompt(prompt), boxes, aspect)
        return changed
