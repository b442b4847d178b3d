"""What joins the families: the studio's door to painting."""
