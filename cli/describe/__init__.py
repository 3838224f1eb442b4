"""The results of verbs as text: tables, trees and lines."""
