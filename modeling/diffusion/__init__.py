"""Image generation: the denoiser, the flow from noise to images, and the samplers that follow it."""
