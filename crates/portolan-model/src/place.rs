//! Places on earth and the distance between them, in integers so that every node ranks regions alike.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Latitude and longitude in millionths of a degree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Coordinates {
    latitude: i32,
    longitude: i32,
}

/// A latitude or longitude off the globe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CoordinatesError {
    /// Latitude outside -90..=90.
    #[error("latitude is between -90 and 90 degrees")]
    Latitude,
    /// Longitude outside -180..=180.
    #[error("longitude is between -180 and 180 degrees")]
    Longitude,
}

impl Coordinates {
    /// Takes degrees, north and east positive; finer than a millionth is cut off.
    pub fn from_degrees(latitude: f64, longitude: f64) -> Result<Self, CoordinatesError> {
        if !(-90.0..=90.0).contains(&latitude) {
            return Err(CoordinatesError::Latitude);
        }
        if !(-180.0..=180.0).contains(&longitude) {
            return Err(CoordinatesError::Longitude);
        }
        Ok(Self { latitude: (latitude * 1e6) as i32, longitude: (longitude * 1e6) as i32 })
    }

    /// Latitude in degrees.
    pub fn latitude(self) -> f64 {
        f64::from(self.latitude) / 1e6
    }

    /// Longitude in degrees.
    pub fn longitude(self) -> f64 {
        f64::from(self.longitude) / 1e6
    }

    /// Great-circle distance in whole kilometres on a sphere of 6371 km (haversine).
    pub fn distance_km(self, other: Self) -> u32 {
        let (lat1, lat2) = (self.latitude().to_radians(), other.latitude().to_radians());
        let half_lat = (lat2 - lat1) / 2.0;
        let half_lon = (other.longitude() - self.longitude()).to_radians() / 2.0;
        let a = half_lat.sin().powi(2) + lat1.cos() * lat2.cos() * half_lon.sin().powi(2);
        (2.0 * 6371.0 * a.sqrt().min(1.0).asin()).round() as u32
    }
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}, {:.4}", self.latitude(), self.longitude())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_matches_known_city_pairs() {
        let at = |lat, lon| Coordinates::from_degrees(lat, lon).expect("on the globe");
        let (ashburn, dublin, singapore) = (at(39.04, -77.49), at(53.35, -6.26), at(1.35, 103.82));
        assert!(ashburn.distance_km(dublin).abs_diff(5450) < 50);
        assert!(dublin.distance_km(singapore).abs_diff(11_190) < 60);
        assert_eq!(dublin.distance_km(dublin), 0);
    }
}
