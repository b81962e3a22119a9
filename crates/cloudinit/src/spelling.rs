//! Did you mean.

/// Longer words are not compared: the cost is quadratic and nobody misspells them.
const LONGEST: usize = 48;

/// The candidate nearest to `word`, if it is near enough to be meant.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = word.chars().count();
    if !(2..=LONGEST).contains(&length) {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let limit = (length / 4).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= limit)
        .map(|candidate| {
            let lower = candidate.to_ascii_lowercase();
            (strsim::osa_distance(&word, &lower), candidate)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["disable", "token", "aws"];
        assert_eq!(nearest("disble", words), Some("disable"));
        assert_eq!(nearest("tokn", words), Some("token"));
        assert_eq!(nearest("azure", words), None);
        assert_eq!(nearest("", words), None);
        assert_eq!(nearest(&"x".repeat(5000), words), None);
    }
}
