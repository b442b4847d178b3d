"""VidRD: video clips that continue each other, over an image diffusion model."""
