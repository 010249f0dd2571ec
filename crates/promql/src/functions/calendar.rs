//! `day_of_week`, `month` and their like, in UTC.

/// A point in time as calendars see it.
struct Civil {
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
    /// Days since 1970-01-01.
    days: i64,
    second_of_day: i64,
}

const SECONDS_PER_DAY: i64 = 86_400;

/// The function of this name, from seconds since the epoch.
pub(crate) fn by_name(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "minute" => |at| (civil(at).second_of_day / 60 % 60) as f64,
        "hour" => |at| (civil(at).second_of_day / 3600) as f64,
        // 1970-01-01 was a Thursday.
        "day_of_week" => |at| (civil(at).days + 4).rem_euclid(7) as f64,
        "day_of_month" => |at| civil(at).day as f64,
        "day_of_year" => |at| {
            let now = civil(at);
            (now.days - days_before(now.year, 1) + 1) as f64
        },
        "days_in_month" => |at| {
            let now = civil(at);
            let (year, month) = if now.month == 12 { (now.year + 1, 1) } else { (now.year, now.month + 1) };
            (days_before(year, month) - days_before(now.year, now.month)) as f64
        },
        "month" => |at| civil(at).month as f64,
        "year" => |at| civil(at).year as f64,
        _ => return None,
    })
}

/// Seconds since the epoch as Go on amd64 takes them: what is no 64-bit integer becomes the least one, and times before
/// Go's absolute year zero come round to the far future.
fn go_seconds(seconds: f64) -> i128 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    // Go's `unixToInternal + internalToAbsolute`: seconds from its absolute zero to the epoch.
    const FROM_ABSOLUTE: u64 = 9_223_372_028_741_760_000;
    let seconds = if (-LIMIT..LIMIT).contains(&seconds) { seconds as i64 } else { i64::MIN };
    i128::from((seconds as u64).wrapping_add(FROM_ABSOLUTE)) - i128::from(FROM_ABSOLUTE)
}

/// Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day is the last.
fn civil(seconds: f64) -> Civil {
    let seconds = go_seconds(seconds);
    let day_length = i128::from(SECONDS_PER_DAY);
    // Both are far inside 64 bits: the seconds are inside 65.
    let (days, second_of_day) =
        (seconds.div_euclid(day_length) as i64, seconds.rem_euclid(day_length) as i64);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil { year, month, day, days, second_of_day }
}

/// Days from the epoch to the first of the month.
fn days_before(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::by_name;

    fn at(name: &str, seconds: f64) -> f64 {
        by_name(name).unwrap()(seconds)
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // 2024-02-29T13:37:42Z, a Thursday.
        let leap = 1_709_213_862.0;
        assert_eq!(at("year", leap), 2024.0);
        assert_eq!(at("month", leap), 2.0);
        assert_eq!(at("day_of_month", leap), 29.0);
        assert_eq!(at("days_in_month", leap), 29.0);
        assert_eq!(at("day_of_year", leap), 60.0);
        assert_eq!(at("day_of_week", leap), 4.0);
        assert_eq!(at("hour", leap), 13.0);
        assert_eq!(at("minute", leap), 37.0);
        assert_eq!(at("days_in_month", 1_703_980_800.0), 31.0);
        assert_eq!(at("year", -1.0), 1969.0);
    }

    #[test]
    fn times_beyond_all_calendars_are_those_of_go_on_amd64() {
        let names = [
            "year",
            "month",
            "day_of_month",
            "day_of_year",
            "day_of_week",
            "hour",
            "minute",
            "days_in_month",
        ];
        let no_integer = [292_277_026_596.0, 12.0, 4.0, 339.0, 0.0, 15.0, 30.0, 31.0];
        for (seconds, wanted) in [
            (f64::NAN, no_integer),
            (f64::INFINITY, no_integer),
            (-1e300, no_integer),
            (-9e18, [-285_198_644_592.0, 9.0, 12.0, 256.0, 1.0, 8.0, 0.0, 30.0]),
            (9e18, [285_198_648_531.0, 4.0, 21.0, 111.0, 6.0, 16.0, 0.0, 30.0]),
        ] {
            assert_eq!(names.map(|name| at(name, seconds)), wanted, "{seconds}");
        }
    }
}
