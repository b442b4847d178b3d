"""The page: a Gradio front end over `studio.studio.Studio`. Nothing else in the studio imports gradio."""
