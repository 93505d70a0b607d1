"""From mesh revision, trust generation and leaf to what one caller sees."""
