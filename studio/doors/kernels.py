"""The door to the kernels' self-test, imported when first needed."""

from __future__ import annotations

from studio.crafts.selftests import BackendFacts, SpeedFacts


class PipelineTester:
    """The real `Tester`."""

    def device(self) -> str:
        """See `Tester`."""
        from pipelines.runtime import choose_runtime

        return str(choose_runtime().device)

    def dtypes(self) -> tuple[str, ...]:
        """See `Tester`."""
        from pipelines.runtime import choose_runtime

        return tuple(dict.fromkeys((choose_runtime().dtype, "float32")))

    def backends(self, dtype: str) -> tuple[BackendFacts, ...]:
        """See `Tester`."""
        from pipelines.kernels.selftest import run_selftest

        return tuple(
            BackendFacts(
                found.backend,
                found.status,
                found.reason,
                found.is_chosen,
                found.max_error,
                found.relative_error,
                found.duration_ms,
            )
            for found in run_selftest(self.device(), dtype)
        )

    def speed(self, dtype: str) -> SpeedFacts:
        """See `Tester`."""
        from pipelines.kernels.selftest import measure_speedup

        try:
            found = measure_speedup(self.device(), dtype)
        except RuntimeError as refusal:
            return SpeedFacts(refusal=f"{refusal}.")
        return SpeedFacts(found.tokens, found.dense_ms, found.local_ms)
